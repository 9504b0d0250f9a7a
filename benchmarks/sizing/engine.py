"""What the built-in engine says it allocated, when it loads a file: one process a load, ended once it has said so."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

_BUFFER = re.compile(r"(KV|RS|compute)\s+buffer size\s*=\s*([\d.]+)\s*MiB")
_LOAD_S = 120


@dataclass(frozen=True, slots=True)
class Wish:
    context: int
    slots: int
    batch: int
    kv_type: str
    flash_attention: bool


# Run in a process of its own: the engine cannot be unloaded from one, and says what it does on standard error only.
_CHILD = """
import json, os, sys
import xllamacpp

path, wish = sys.argv[1], json.loads(sys.argv[2])
kinds, flash = xllamacpp.ggml_type, xllamacpp.llama_flash_attn_type
ask = xllamacpp.CommonParams()
ask.model.path, ask.hostnames, ask.port = path, ["127.0.0.1"], 0
ask.n_parallel, ask.n_ctx = wish["slots"], wish["slots"] * wish["context"]
ask.n_batch = ask.n_ubatch = wish["batch"]
ask.cache_type_k = ask.cache_type_v = getattr(kinds, "GGML_TYPE_" + wish["kv_type"].upper())
ask.flash_attn_type = getattr(flash, "LLAMA_FLASH_ATTN_TYPE_" + ("EN" if wish["flash_attention"] else "DIS") + "ABLED")
ask.fit_params = ask.warmup = ask.ui = ask.ctx_shift = False
ask.no_extra_bufts = True
ask.cache_ram_mib = 0
ask.cpuparams.n_threads = ask.cpuparams_batch.n_threads = 1
ask.verbosity = 4
xllamacpp.Server(ask)
os._exit(0)
"""


def buffers_mib(path: Path, wish: Wish) -> dict[str, float]:
    """MiB of each kind of buffer; a kind that comes twice (a cache with and one without a window) is added up."""
    said = _said(path, wish)
    found: dict[str, float] = {}
    for kind, mib in _BUFFER.findall(said):
        found[kind] = round(found.get(kind, 0.0) + float(mib), 2)
    if "compute" not in found:
        raise RuntimeError(f"{path.name}: the engine did not load it: {said.strip()[-500:]}")
    return found


def _said(path: Path, wish: Wish) -> str:
    """What the engine wrote until it had its last buffer. It is ended then: its server may be long in starting."""
    command = [sys.executable, "-c", _CHILD, str(path), orjson.dumps(asdict(wish)).decode()]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as engine:
        assert engine.stderr is not None
        limit = threading.Timer(_LOAD_S, engine.kill)
        limit.start()
        lines: list[str] = []
        for line in engine.stderr:
            lines.append(line)
            if "compute buffer size" in line:
                break
        limit.cancel()
        engine.kill()
    return "".join(lines)
