"""The inventory of a host as `NodeFacts`: of this one by a look from here, of another by what is sent there to look.

Both run the same modules, those of `onhost`. What the facts are good for is decided elsewhere.
`python -m orchestrator.nodes.probe NODE MODELS_DIR` prints this host's as JSON.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeFacts, NodeName
from orchestrator.nodes.onhost.gpus import NVML_WAIT_S, GpuReader
from orchestrator.nodes.onhost.look import Look

_NODE_FACTS = TypeAdapter(NodeFacts)

# Read at the host before anything else: what was sent is a count of bytes and so many of compressed JSON, and its
# modules become importable in the order in which they were sent.
BOOT = """\
import sys, json, zlib, types
line = sys.stdin.buffer
sent = json.loads(zlib.decompress(line.read(int(line.readline()))))
for name, text in sent[sent["main"]]:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
sys.modules[sent["main"]].main(sent)
"""
_PACKAGE = "orchestrator.nodes.onhost"
_LOOKS = f"{_PACKAGE}.look"
_READS = f"{_PACKAGE}.nvml"


def probe(node: NodeName, models_dir: Path, *, root: Path = Path("/"), nvml_wait_s: float = NVML_WAIT_S) -> NodeFacts:
    """Everything `NodeFacts` asks of this host, read now; a sick driver is a sentence in `problems`, after
    `nvml_wait_s` at most.

    Blocks: call it in a thread. `root` is where `proc`, `sys` and `dev` are looked for.
    """
    command = [sys.executable, "-m", _READS, str(root)]
    reader = GpuReader(command, wait_s=nvml_wait_s, cwd=str(Path(__file__).parents[2]))
    try:
        return _NODE_FACTS.validate_python(Look(node, models_dir, reader, root).facts())
    finally:
        reader.close()


@dataclass(frozen=True, slots=True)
class Asked:
    """What another host is asked to look at, how often, and how many times (None: until the connection ends)."""

    node: NodeName
    models_dir: str
    interval_s: float = 1.0
    most: int | None = None
    nvml_wait_s: float = NVML_WAIT_S


# What runs at the host: its own Python without anybody's settings, reading the rest from its standard input.
PROGRAM = ("python3", "-I", "-c", BOOT)


def bundle(asked: Asked) -> dict[str, Any]:
    """What `PROGRAM` reads: it looks as long as its input stays open, and prints what `Seen` reads."""
    return {
        "main": _LOOKS,
        "reader": _READS,
        "boot": BOOT,
        "root": "/",
        "node": asked.node,
        "models_dir": asked.models_dir,
        "interval_s": asked.interval_s,
        "most": asked.most,
        "nvml_wait_s": asked.nvml_wait_s,
        **_modules(),
    }


@cache
def _modules() -> dict[str, list[tuple[str, str]]]:
    """By program, the modules it needs, each after those that it imports itself."""
    first = ("orchestrator", "orchestrator.nodes", _PACKAGE, f"{_PACKAGE}.gpus")
    return {
        _LOOKS: module_texts(*first, f"{_PACKAGE}.host", f"{_PACKAGE}.ollamas", _LOOKS),
        _READS: module_texts(*first, f"{_PACKAGE}.links", "pynvml", _READS),
    }


def module_texts(*names: str) -> list[tuple[str, str]]:
    """Each module's source; packages are sent empty, as names to import from."""
    found = []
    for name in names:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        is_package = spec.submodule_search_locations is not None
        found.append((name, "" if is_package else Path(spec.origin).read_text(encoding="utf-8")))
    return found


class Seen:
    """What a host printed so far, put together: each line has what changed since the one before."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self.facts: NodeFacts | None = None

    def read(self, line: bytes) -> NodeFacts:
        """The facts after one more line. Raises HostError for what is none."""
        try:
            changed = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise HostError(f"what the host printed is no inventory: {_beginning(line)}") from error
        if not isinstance(changed, dict):
            raise HostError(f"what the host printed is no inventory: {_beginning(line)}")
        if changed or self.facts is None:
            self._values.update(changed)
            self.facts = _validated(self._values)
        return self.facts


def _beginning(line: bytes) -> str:
    return line[:200].decode(errors="replace").strip() or "an empty line"


def _validated(values: Any) -> NodeFacts:
    try:
        return _NODE_FACTS.validate_python(values)
    except ValidationError as error:
        raise HostError(_no_inventory(error)) from error


def _no_inventory(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(each) for each in first["loc"]) or "the text"
    return (
        f"what the host printed is no inventory ({where}: {first['msg']}): install the same version of "
        "ollama-orchestrator there as here"
    )


def facts_to_json(facts: NodeFacts) -> bytes:
    """One line of JSON that `facts_from_json` reads back to the same value."""
    return orjson.dumps(facts)


def facts_from_json(text: bytes | str) -> NodeFacts:
    """The facts that another probe printed. Raises HostError for anything else."""
    try:
        return _NODE_FACTS.validate_json(text)
    except ValidationError as error:
        raise HostError(_no_inventory(error)) from error


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.nodes.probe", description="Print this host's facts.")
    parser.add_argument("node", help="name of the host in plans")
    parser.add_argument("models_dir", type=Path, help="directory of the models; it need not exist")
    asked = parser.parse_args()
    sys.stdout.buffer.write(facts_to_json(probe(NodeName(asked.node), asked.models_dir)) + b"\n")


if __name__ == "__main__":
    main()
