"""How a host's units stand, read from what its program tells, and what happened to them between two looks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from orchestrator.nodes.keeper_units import EventKind, Exit, UnitEvent, UnitState, UnitStatus
from orchestrator.nodes.systemd_text import RESTART_S, name_of

# A host's logs are in its journal: `SystemdKeeper.logs` reads them.
JOURNAL: Final = Path("journal")
_EXITED: Final = 1  # CLD_EXITED; the others are ends by a signal


@dataclass(frozen=True, slots=True)
class Look:
    """One unit, in systemd's words. `run` is its invocation id; `age_s`: for how long it has been so."""

    active: str
    sub: str
    pid: int
    restarts: int
    code: int
    status: int
    run: str
    result: str
    age_s: float

    @property
    def state(self) -> UnitState:
        if self.sub.startswith("auto-restart"):
            return UnitState.WAITING
        match self.active:
            case "active" | "reloading":
                return UnitState.RUNNING
            case "activating":
                return UnitState.STARTING
            case "deactivating":
                return UnitState.STOPPING
            case _:
                return UnitState.EXITED

    @property
    def exit(self) -> Exit | None:
        """How its last process ended, as long as there is no other."""
        return None if self.pid else exit_of(self.code, self.status)


@dataclass(frozen=True, slots=True)
class End:
    """How a run of a unit ended, as the journal has it. `reason`: why systemd could not start it."""

    code: int
    status: int
    lines: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class News:
    """The units of a host after a change, and the ends of those that ran before; both by instance."""

    looks: Mapping[str, Look]
    ends: Mapping[str, End]


_LOOKS: Final = TypeAdapter(dict[str, Look])
_NEWS: Final = TypeAdapter(News)


def read_looks(value: Any) -> dict[str, Look]:
    """Raises ValidationError, which is a ValueError."""
    return _LOOKS.validate_python(value)


def read_news(value: Any) -> News:
    """Raises ValidationError, which is a ValueError."""
    return _NEWS.validate_python(value)


def exit_of(code: int, status: int) -> Exit | None:
    """How a process ended, from ExecMainCode and ExecMainStatus; None where none did."""
    if code == 0:
        return None
    return Exit(code=status) if code == _EXITED else Exit(signal=status)


def status_of(instance: str, look: Look, last_exit: Exit | None, now_unix_ms: int) -> UnitStatus:
    """`last_exit` is what is known of an earlier process. Clocks differ between hosts: ours counts."""
    return UnitStatus(
        name=name_of(instance),
        pid=look.pid or None,
        state=look.state,
        restarts=look.restarts,
        since_unix_ms=now_unix_ms - round(look.age_s * 1000),
        last_exit=look.exit or last_exit,
        log=JOURNAL,
    )


def settled(before: Mapping[str, Look], now: Mapping[str, Look]) -> dict[str, Look]:
    """What the next look is compared with: of a unit on its way down it is not yet known why."""
    kept = {name: before[name] for name, look in now.items() if look.state is UnitState.STOPPING and name in before}
    return {**now, **kept}


def happened(
    before: Mapping[str, Look], now: Mapping[str, Look], ends: Mapping[str, End], now_unix_ms: int
) -> Iterator[UnitEvent]:
    """The events that lead from one look to the next, unit by unit."""
    for instance in sorted(before.keys() | now.keys()):
        was, look = before.get(instance), now.get(instance)
        if look is None or look.state is not UnitState.STOPPING:
            yield from _of_one(name_of(instance), was, look, ends.get(instance), now_unix_ms)


def _of_one(unit: str, was: Look | None, look: Look | None, end: End | None, at: int) -> Iterator[UnitEvent]:
    is_new_run = look is not None and (was is None or was.run != look.run)
    if was is not None and was.pid and (look is None or is_new_run or not look.pid):
        yield _ended(unit, was, look, end, at)
    elif was is not None and look is not None and not look.pid and (_waits_again(was, look) or _gave_up(was, look)):
        yield _ended(unit, was, look, end, at)  # it came and went between two looks
    if look is not None and look.pid and (was is None or is_new_run or not was.pid):
        yield UnitEvent(unit, EventKind.STARTED, at, pid=look.pid)


def _waits_again(was: Look, look: Look) -> bool:
    return look.state is UnitState.WAITING and was.run != look.run


def _gave_up(was: Look, look: Look) -> bool:
    """Whether systemd has. One that was told to end and had to be killed has failed by its words, too: by a timeout."""
    return look.active == "failed" and was.active != "failed" and look.result != "timeout"


def _ended(unit: str, was: Look, look: Look | None, end: End | None, at: int) -> UnitEvent:
    unasked = look is not None and (
        look.state is UnitState.WAITING or look.restarts > was.restarts or _gave_up(was, look)
    )
    how = exit_of(end.code, end.status) if end is not None else None
    return UnitEvent(
        unit,
        EventKind.EXITED if unasked else EventKind.STOPPED,
        at,
        pid=was.pid or None,
        exit=how or (look.exit if look is not None else None),
        why=end.reason if end is not None else "",
        retry_in_s=RESTART_S if look is not None and look.state is UnitState.WAITING else None,
        lines=end.lines if end is not None else (),
    )
