"""Whether what clients saw, and what instances counted, is what a cluster promises: pure functions over a history.

Each answers with the breaches that it found, a sentence each; none is what a good history gives. A function knows
nothing of faults but what may be met because of one (`Allowed`) and from when to when.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orchestrator.store.pools import PoolLoad
from tests.chaos.answers import NotAnAnswer, meant, told_by
from tests.chaos.faults import Allowed
from tests.chaos.history import Called, Framing, Sent

Events = Sequence[Mapping[str, Any]]

# An instance hears on two connections of who left and of who comes: in its own time these are so far apart at most.
LEAVING_S = 0.25
# Later calls that may get a slot before one that waits: a look at the line a second, and a class that is fair by key.
OVERTAKEN_AT_MOST = 40


class End(StrEnum):
    """How a call ended for its client."""

    WHOLE = "answered whole"
    LEFT = "left by its client"
    ERROR_FRAME = "ended in an error frame"
    REFUSED = "refused, with a time to come back"
    CUT = "cut off"
    GARBLED = "had something in it that is no frame"
    BROKEN = "ended in a way that no client can make sense of"


@dataclass(frozen=True, slots=True)
class Disturbance:
    """When a fault was there, until all was well again; and what it allows calls that were under way then."""

    from_s: float
    to_s: float
    allows: Allowed

    def touched(self, called: Called) -> bool:
        return called.was_under_way(self.from_s, self.to_s)


def end_of(called: Called) -> tuple[End, str]:
    """How it ended, and why that is so."""
    if called.framing is Framing.LEFT:
        return End.LEFT, ""
    if called.framing in (Framing.UNREACHED, Framing.SILENT):
        return End.BROKEN, called.why
    if called.framing is Framing.CUT:
        error = _last_error(called)
        return (End.ERROR_FRAME, error) if error else (End.CUT, called.why)
    if called.status in (429, 503):
        is_told = called.header("retry-after").isdigit() and b'"error"' in called.body
        return (End.REFUSED if is_told else End.BROKEN), f"{called.status}: {called.body[:200]!r}"
    if called.status != 200:
        return End.BROKEN, f"{called.status}: {called.body[:200]!r}"
    try:
        told = told_by(called)
    except (NotAnAnswer, LookupError, TypeError) as why:
        return (End.GARBLED if called.sent.is_stream else End.BROKEN), str(why)
    if told.error:
        return End.ERROR_FRAME, told.error
    return (End.WHOLE, "") if told.is_whole else (End.BROKEN, f"no end: {called.body[-200:]!r}")


def _last_error(called: Called) -> str:
    """The error frame that a stream has told before its connection ended: by that, too, clients know that it broke."""
    try:
        return told_by(called).error if called.status == 200 else ""
    except (NotAnAnswer, LookupError, TypeError):
        return ""


# --- what clients saw -------------------------------------------------------------------------------------------------


def ended_once(begun: Iterable[str], calls: Iterable[Called]) -> list[str]:
    """Each call that began has ended, and none twice."""
    ends, expected = Counter(each.sent.id for each in calls), set(begun)
    lost = [f"{each} never ended" for each in sorted(expected - ends.keys())]
    doubled = [f"{id_} ended {times} times" for id_, times in sorted(ends.items()) if times > 1]
    return lost + doubled + [f"{each} ended and never began" for each in sorted(ends.keys() - expected)]


def ended_well(calls: Iterable[Called], disturbance: Disturbance) -> list[str]:
    """Each call was answered whole, unless the fault touched it and allows what it met instead."""
    allows = disturbance.allows
    may = {
        End.CUT: allows.cut,
        End.ERROR_FRAME: allows.error_frames,
        End.REFUSED: allows.refused,
        End.WHOLE: True,
        End.LEFT: True,
        End.GARBLED: False,
        End.BROKEN: False,
    }
    found = []
    for each in calls:
        end, why = end_of(each)
        is_fine = may[end] if disturbance.touched(each) else end in (End.WHOLE, End.LEFT)
        if not is_fine:
            when = "" if disturbance.touched(each) else ", and nothing disturbed it"
            found.append(f"{each.sent.id} ({_kind(each)}) {end}{when}: {why}")
    return found


def exact(
    calls: Iterable[Called],
    models: Mapping[str, Sequence[str]],
    says: Callable[[Sent, str], tuple[str, ...]] = meant,
) -> list[str]:
    """What was said is what was to be said: all of it where the answer is whole, otherwise its beginning.

    Of a stream that also says that nothing is missing in it and nothing comes twice. `models`: who may answer a name
    that is not a model's own. `says(sent, model)`: what a model may say to a call.
    """
    found = []
    for each in calls:
        if each.status != 200:
            continue
        end, _ = end_of(each)
        if end in (End.BROKEN, End.GARBLED):
            continue  # `ended_well` has it
        try:
            told = told_by(each)
        except (NotAnAnswer, LookupError, TypeError) as why:
            found.append(f"{each.sent.id} ({_kind(each)}) {end}, and before that is no answer: {why}")
            continue
        names = models.get(each.sent.model, (each.sent.model,))
        texts = [text for model in names for text in says(each.sent, model)]
        is_right = told.text in texts if told.is_whole else any(text.startswith(told.text) for text in texts)
        if not is_right:
            found.append(f"{each.sent.id} ({_kind(each)}) was told {told.text!r}, not {texts[0]!r}")
    return found


def starved(calls: Iterable[Called], overtaken_at_most: int = OVERTAKEN_AT_MOST) -> list[str]:
    """No call waited in line while many that came later got a slot of the same pool. Who was refused got none."""
    waits: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    served: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for each in calls:
        came_s = each.began_s
        if each.status == 200 and each.header("x-instance"):
            pool = each.header("x-instance").partition("/")[2]
            waits[pool].append((came_s, came_s + _queued_s(each), each.sent.id))
            served[pool].append((came_s, came_s + _queued_s(each)))
        elif each.status == 503:
            waits[each.sent.model].append((came_s, each.ended_s, each.sent.id))
    found = []
    for pool, times in waits.items():
        for came_s, got_s, id_ in times:
            overtook = sum(came_s < other_s and other_got_s < got_s for other_s, other_got_s in served[pool])
            if overtook > overtaken_at_most:
                found.append(f"{id_} waited for {pool} while {overtook} calls that came later got a slot")
    return found


def _queued_s(called: Called) -> float:
    """What the gateway says of the time in line, in its Server-Timing."""
    for part in called.header("server-timing").split(","):
        name, _, value = part.strip().partition(";dur=")
        if name == "queue":
            return float(value) / 1e3
    return 0.0


def _kind(called: Called) -> str:
    stream = "stream" if called.sent.is_stream else "whole"
    return f"{called.sent.path} {called.sent.model} {stream} by {called.header('x-instance') or 'nobody'}"


# --- what instances counted -------------------------------------------------------------------------------------------


def oversold(journals: Mapping[str, Events], slots: Mapping[str, int], leaving_s: float = LEAVING_S) -> list[str]:
    """No instance worked on more calls at once than it has slots, by its own count."""
    found = []
    for instance, events in journals.items():
        changes = sorted(change for began_s, ended_s in _spans(events) for change in ((began_s, 1), (ended_s, -1)))
        at_once = most = 0
        since_s = float("inf")  # that it has more than it has slots
        for at_s, change in changes:
            at_once += change
            if at_once > slots[instance]:
                since_s, most = min(since_s, at_s), max(most, at_once)
                continue
            if at_s - since_s > leaving_s:
                found.append(f"{instance} worked on {most} calls, from {since_s:.3f} for {at_s - since_s:.3f} s")
            since_s, most = float("inf"), 0
    return found


def _worked(events: Events) -> Iterable[tuple[Mapping[str, Any], Mapping[str, Any] | None]]:
    """Each call that an instance took, with what ended it: itself, or its process' death; None: it goes on."""
    under_way: dict[int, Mapping[str, Any]] = {}
    for each in events:
        if each["event"] == "took":
            under_way[each["n"]] = each
        elif each["event"] == "ended":
            yield under_way.pop(each["n"]), each
        elif each["event"] in ("began", "died"):
            yield from ((taken, each) for taken in under_way.values())
            under_way.clear()
    yield from ((taken, None) for taken in under_way.values())


def _spans(events: Events) -> list[tuple[float, float]]:
    """From when to when an instance worked on each call; its death ends all that it had."""
    return [(taken["at_s"], end["at_s"] if end else float("inf")) for taken, end in _worked(events)]


def ran_twice(calls: Iterable[Called], journals: Mapping[str, Events], routes: Iterable[str]) -> list[str]:
    """No call of a model's own name was answered whole more than once: a retry repeats no finished work."""
    served = Counter(each["id"] for each in _pairs(journals) if each["whole"])
    asked = {each.sent.id for each in calls if not each.sent.is_cacheable and each.sent.model not in set(routes)}
    return [f"{id_} was answered {served[id_]} times" for id_ in sorted(asked) if served[id_] > 1]


def _pairs(journals: Mapping[str, Events]) -> Iterable[Mapping[str, Any]]:
    """Every call that ended on an instance: how it ended, with its id."""
    for events in journals.values():
        for taken, end in _worked(events):
            if end is not None and end["event"] == "ended":
                yield {**end, "id": taken["id"]}


def _lost(journals: Mapping[str, Events]) -> Iterable[str]:
    """The ids of calls that an instance was killed with: it could not write how they ended."""
    for events in journals.values():
        for taken, end in _worked(events):
            if end is None or end["event"] != "ended":
                yield taken["id"]


# --- what is in the books ---------------------------------------------------------------------------------------------


def accounted(
    calls: Sequence[Called],
    journals: Mapping[str, Events],
    counted: Mapping[str, int],
    routes: Iterable[str],
    allows: Allowed,
) -> list[str]:
    """What was counted as served lies between what clients had whole and what instances gave.

    `counted`: requests, completion_tokens and prompt_tokens of all instances together, since the journals began. An
    answer that a route doubts is counted as far as it came, as it was served; how much of its prompt was read by then
    is not in the journals, so that prompts are held to what clients had alone. What was gone on with elsewhere counts
    with what its first instance had given; one that was killed could not say how much, so that may be a whole answer.
    """
    doubtful = {each.sent.id for each in calls if each.sent.model in set(routes)}
    ended, lost = list(_pairs(journals)), list(_lost(journals))
    times = Counter([*(each["id"] for each in ended), *lost])
    in_parts = doubtful | {id_ for id_, taken in times.items() if taken > 1}
    whole = [each for each in ended if each["whole"]]
    parts = [each for each in ended if not each["whole"] and each["frames"] and each["id"] in in_parts]
    longest = max(map(_tokens, whole), default=0)
    most = {
        "requests": len(whole) + sum(each["id"] in doubtful for each in parts) + len(doubtful & set(lost)),
        "completion_tokens": sum(map(_tokens, [*whole, *parts])) + longest * sum(id_ in in_parts for id_ in lost),
    }
    had = {each.sent.id for each in calls if _is_of_an_instance(each)}
    given = {each["id"]: each for each in ended if each["whole"] and each["id"] in had}
    least = {
        "requests": len(had),
        "completion_tokens": sum(map(_tokens, given.values())),
        "prompt_tokens": sum(int(each.get("prompt_tokens", 0)) for each in given.values()),
    }
    found = [
        f"{counted[name]} {name} are counted, instances gave {top}"
        for name, top in most.items()
        if counted.get(name, 0) > top
    ]
    return found + [
        f"{counted.get(name, 0)} {name} are counted, clients had {bottom}"
        for name, bottom in least.items()
        if counted.get(name, 0) < bottom and not allows.uncounted
    ]


def _tokens(ended: Mapping[str, Any]) -> int:
    return int(ended["completion_tokens"] or ended["frames"])


def _is_of_an_instance(called: Called) -> bool:
    is_own = not called.sent.is_cacheable and bool(called.header("x-instance"))
    return is_own and end_of(called)[0] is End.WHOLE


def leases_back(loads: Iterable[PoolLoad]) -> list[str]:
    """Nothing is held or waited for once nobody asks any more, and nothing in Redis contradicts itself."""
    found = []
    for each in loads:
        held = {one.instance: one.in_flight for one in each.instances if one.in_flight}
        if held or each.queued:
            found.append(f"{each.pool}: {held} held, {each.queued} in line")
        if each.drift:
            found.append(f"{each.pool} contradicts itself: {dict(each.drift)}")
    return found
