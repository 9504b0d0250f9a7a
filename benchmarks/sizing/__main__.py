"""How near do estimates of memory come to what engines allocate? One line a load: real, ours, and how far above.

    python -m benchmarks.sizing [--data ../shared/ollama-wire/memory/sizes.json]   a real Ollama's own figures
    python -m benchmarks.sizing --engine [--only lfm2] [--record]                  the built-in engine, 25 models

The goal: never below, and above by no more than 100 MiB or 3 %. Exits 1 where that is missed. `--engine` loads files
with a header and holes for weights (about a minute on one core, up to 3 GB of memory); `--record` keeps what it said in
measured.json, which tests/core/test_sizing_layouts.py holds estimates against.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson

from benchmarks.sizing.engine import Wish, buffers_mib
from benchmarks.sizing.files import header, write
from benchmarks.sizing.layouts import LAYOUTS, VOCAB
from orchestrator.core.gguf import read_shape
from orchestrator.core.model import Footprint, ModelShape
from orchestrator.core.sizing import MIB, footprint

HERE = Path(__file__).parent
MEASURED = HERE / "measured.json"
SHARED = HERE.parents[2] / "shared" / "ollama-wire" / "memory" / "sizes.json"

WISHES = (
    Wish(4096, 1, 512, "f16", True),
    Wish(8192, 4, 1024, "f16", True),
    Wish(32768, 1, 2048, "f16", True),
    Wish(8192, 2, 1024, "q8_0", True),
    Wish(4096, 1, 512, "f16", False),
)


def is_good(ours: int, real: int) -> bool:
    return real <= ours <= real + max(100 * MIB, real * 3 // 100)


def line(what: str, real: int, ours: int) -> str:
    above = ours - real
    share = f"{above / real:+7.2%}" if real else " " * 7
    mark = "" if is_good(ours, real) else "  !"
    return f"{what:80} {real / MIB:9.1f} {ours / MIB:9.1f} {above / MIB:+8.1f} {share}{mark}"


# --- a real Ollama ---------------------------------------------------------------------------------------------------


def shape_of(told: dict[str, Any], weights_bytes: int) -> ModelShape:
    """The shape of a measured model. Its weights are those of the engine's log, in MiB with two digits: rounded up."""
    return ModelShape(
        arch=told["arch"],
        parameters=0,
        layers=told["block_count"],
        heads=told["head_count"],
        kv_heads=told["head_count_kv"],
        head_dim=told["head_dim"],
        embedding_length=told["embedding_length"],
        vocab=told["vocab"],
        context_length=told["context_length"],
        weights_bytes=weights_bytes,
        quantisation=told["quantization"],
        is_embedding="pooling" in told,
        feed_forward_length=told["feed_forward_length"],
    )


def estimate(models: dict[str, Any], row: dict[str, Any]) -> Footprint:
    env, options = row["env"], row["options"]
    weights = int((row["buffers_mib"]["model"] + 0.005) * MIB)
    return footprint(
        shape_of(models[row["model"]], weights),
        options.get("num_ctx", row["ps_context_length"]),
        int(env.get("OLLAMA_NUM_PARALLEL", 1)),
        env.get("OLLAMA_KV_CACHE_TYPE", "f16"),
        batch=options.get("num_batch"),
        flash_attention=env.get("OLLAMA_FLASH_ATTENTION") != "0",
        on_gpu=False,
    )


def against_ollama(path: Path) -> int:
    told = orjson.loads(path.read_bytes())
    missed = 0
    print(f"{'Ollama ' + told['ollama_version'] + ', ' + told['backend']:80} {'real MiB':>9} {'ours':>9} {'above':>8}")
    for row in told["rows"]:
        wish = " ".join(f"{key}={value}" for key, value in (*row["env"].items(), *row["options"].items()))
        what = f"{row['model']} {wish}"
        if row["ps_size"] is None:
            print(f"{what:80} {'refused':>9} {refusal(told['models'], row)}")
            continue
        ours = estimate(told["models"], row).total
        missed += not is_good(ours, row["ps_size"])
        print(line(what, row["ps_size"], ours))
    return missed


def refusal(models: dict[str, Any], row: dict[str, Any]) -> str:
    """What we say of a load that Ollama could not make: it must be refused here too."""
    try:
        estimate(models, {**row, "buffers_mib": {"model": 1.0}, "ps_context_length": 4096})
    except ValueError as why:
        return f"refused: {why}"
    return "NOT refused  !"


# --- the built-in engine ---------------------------------------------------------------------------------------------


def against_engine(only: str, *, is_recorded: bool) -> int:
    missed, rows = 0, []
    print(f"{'built-in engine: cache and compute':80} {'real MiB':>9} {'ours':>9} {'above':>8}")
    for name, layout in LAYOUTS.items():
        if only not in name:
            continue
        head, weights_bytes = header(*layout(), VOCAB)
        shape = read_shape(head, len(head) + weights_bytes)
        with tempfile.TemporaryDirectory(prefix="sizing-") as folder:
            path = Path(folder) / "model.gguf"
            write(path, head, weights_bytes)
            for wish in WISHES:
                real = buffers_mib(path, wish)
                rows.append({"layout": name, **asdict(wish), "mib": real})
                missed += compare(name, shape, wish, real)
    if is_recorded:
        MEASURED.write_text("[\n" + ",\n".join(orjson.dumps(row).decode() for row in rows) + "\n]\n")
    return missed


def compare(name: str, shape: ModelShape, wish: Wish, real: dict[str, float]) -> int:
    wide = replace(shape, is_embedding=False)
    size = footprint(
        wide,
        wish.context,
        wish.slots,
        wish.kv_type,
        batch=wish.batch,
        flash_attention=wish.flash_attention,
        on_gpu=False,
    )
    what = f"{name} {wish.slots} x {wish.context}, batch {wish.batch}, {wish.kv_type}"
    what += "" if wish.flash_attention else ", no flash attention"
    # The engine rounds to a hundredth of a MiB, each of up to three buffers.
    told = int((sum(real.values()) - 0.015) * MIB)
    ours = size.kv_cache + size.compute
    print(line(what, told, ours))
    return not is_good(ours, told)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED, help="measurements of a real Ollama")
    parser.add_argument("--engine", action="store_true", help="measure the built-in engine instead")
    parser.add_argument("--only", default="", help="with --engine: only architectures with this in their name")
    parser.add_argument("--record", action="store_true", help="with --engine: keep the figures in measured.json")
    wish = parser.parse_args()
    if wish.engine:
        missed = against_engine(wish.only, is_recorded=wish.record)
    elif wish.data.is_file():
        missed = against_ollama(wish.data)
    else:
        print(f"{wish.data}: there are no measurements; name a file with --data, or use --engine", file=sys.stderr)
        return 2
    print(f"{missed} outside the goal" if missed else "all within the goal")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
