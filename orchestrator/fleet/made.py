"""How an instance was made, written into its own process: whoever finds the process knows what it is.

Neither Redis nor a file needs to survive for that. A process of another user cannot be read, and is not ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import orjson
import psutil
from pydantic import TypeAdapter, ValidationError

from orchestrator.core.model import Placement
from orchestrator.nodes.keeper_units import Unit

UNIT_PREFIX = "engine-"
MARK = "OLLAMACTL_INSTANCE"
# Among the terms of an instance on a host: it listens for TLS, and wants a certificate of the cluster's authority.
OVER_TLS = "tls=mutual"


@dataclass(frozen=True, slots=True)
class Made:
    """What an instance was started as. `terms`: see `Wanted.terms`."""

    placement: Placement
    port: int
    terms: str
    is_embedding: bool

    @property
    def is_over_tls(self) -> bool:
        """Whether it was started so; it is so only on a host that is reached over SSH."""
        return OVER_TLS in self.terms.split()

    @property
    def unit(self) -> str:
        return UNIT_PREFIX + self.placement.instance


_MADE: TypeAdapter[Made] = TypeAdapter(Made)


def marked(unit: Unit, made: Made) -> Unit:
    """`unit` with the mark in its environment."""
    return replace(unit, env={**unit.env, MARK: orjson.dumps(made).decode()})


def marks_of(pids: Mapping[str, int]) -> dict[str, str]:
    """The marks of this machine's processes, by unit; those that have none are left out. Blocks."""
    return {unit: mark for unit, pid in pids.items() if (mark := _mark(pid))}


def found(marks: Mapping[str, str]) -> dict[str, Made]:
    """What units say they are, by unit; those that say what makes no sense are left out."""
    read = {unit: _read(mark) for unit, mark in marks.items()}
    return {unit: made for unit, made in read.items() if made is not None and made.unit == unit}


def _mark(pid: int) -> str:
    try:
        return psutil.Process(pid).environ().get(MARK, "")
    except psutil.Error:
        return ""


def _read(mark: str) -> Made | None:
    try:
        return _MADE.validate_json(mark)
    except ValidationError:
        return None
