"""What a real engine counts itself, beside what clients had and what is in the books: pure functions, as `checker`.

It knows no call by its id. Looks at its counters stand in the place of a journal: how many calls it works on, how many
wait in it for a slot, how many tokens it has written since it began.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.checker import End, end_of
from tests.chaos.faults import Allowed
from tests.chaos.history import Called

# A call whose client left may be worked on for as long as an answer takes, if it is not streamed.
LEAVING_S = 2.0
_PREFIX = "llamacpp:"
_COUNTS = ("requests_processing", "requests_deferred", "tokens_predicted_total")


@dataclass(frozen=True, slots=True)
class Look:
    """Counters of one process at one moment (seconds of CLOCK_MONOTONIC)."""

    at_s: float
    pid: int
    working: int
    waiting: int
    tokens: int

    @classmethod
    def of(cls, metrics: str, pid: int) -> Look:
        """From its /metrics. Raises KeyError where one is not there."""
        lines = [line.removeprefix(_PREFIX).split() for line in metrics.splitlines() if line.startswith(_PREFIX)]
        told = {name: int(float(value)) for name, value in lines if name in _COUNTS}
        return cls(time.monotonic(), pid, *(told[name] for name in _COUNTS))


def oversold(looks: Mapping[str, Sequence[Look]], slots: int, leaving_s: float = LEAVING_S) -> list[str]:
    """No engine had more calls at once than it has slots, for longer than one that was left may take to end."""
    found = []
    for engine, seen in looks.items():
        since_s = most = None
        for each in seen:
            at_once = each.working + each.waiting
            if at_once <= slots:
                since_s = most = None
                continue
            since_s, most = since_s or each.at_s, max(most or 0, at_once)
            if each.at_s - since_s > leaving_s:
                found.append(f"{engine} had {most} calls, from {since_s:.3f} for more than {leaving_s:g} s")
                break
    return found


def written(before: Look | None, after: Look | None) -> int | None:
    """How many tokens one engine wrote between two looks; None where that is not known, as it was another process."""
    if before is None or after is None or before.pid != after.pid:
        return None
    return after.tokens - before.tokens


def accounted(
    calls: Sequence[Called],
    tokens: Mapping[str, int],
    written_by: Iterable[int | None],
    counted: Mapping[str, int],
    allows: Allowed,
) -> list[str]:
    """What was counted as served by engines lies between what clients had whole and what engines wrote.

    `calls`: those of the engines' model. `tokens`: of a whole answer, by call. `written_by`: tokens, by engine; where
    one of them is not known, as an engine ended meanwhile with its count, no more than every call's whole answer.
    """
    had = [each for each in calls if end_of(each)[0] is End.WHOLE]
    least = {"requests": len(had), "completion_tokens": sum(tokens[each.sent.id] for each in had)}
    known = list(written_by)
    wrote = sum(tokens.values()) if None in known else sum(each or 0 for each in known)
    most = {"requests": len(calls), "completion_tokens": wrote}
    found = []
    for name, top in most.items():
        if counted.get(name, 0) > top:
            found.append(f"{counted[name]} {name} of real engines are counted, they gave {top}")
        if counted.get(name, 0) < least[name] and not allows.uncounted:
            found.append(f"{counted.get(name, 0)} {name} of real engines are counted, clients had {least[name]}")
    return found
