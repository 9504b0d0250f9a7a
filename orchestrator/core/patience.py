"""How long an instance may be silent before its calls go elsewhere, and what is done about one that stays silent.

Nothing comes from an engine before its first token: a long prompt, a long answer that is not streamed, a queue and a
jam look alike (OLLAMA.md 1.2, 1.6). So silence is judged by what the pool showed lately, by the size of what was asked,
and only as long as other instances of the pool answer: where all are silent, the machine is busy. Who is asked, and how
time passes, is left to the gateway; doing what is decided here, to the controller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple

from orchestrator.core.model import Call, Dialect

# First bytes remembered of a kind and size; fewer of a kind than ENOUGH allow no judgement.
LATELY: Final = 64
ENOUGH: Final = 16
# So many times what was usual: of answers as unlike as a model's, few in ten thousand take longer than the longest of
# sixty times this, and such a call is asked elsewhere, not lost.
USUAL_TIMES: Final = 8.0
# A prompt that is in no cache costs what the last hundred cached ones did not show. A CPU reads some 90 tokens of 4
# bytes a second (OLLAMA.md 1.13); cards read a hundred times faster, and find a hang in a long prompt later for it.
SLOWEST_S_A_BYTE: Final = 0.003
# Of a request's bytes those that are no prompt: names, roles, options.
ENVELOPE_BYTES: Final = 200
# A token that is written costs what reading so many bytes of prompt does, and mostly less.
BYTES_A_TOKEN_WRITTEN: Final = 32
# Other instances answer while one of them did so within what a first byte usually takes: at least within this part of
# the shortest silence that is looked at (after all fell silent at once, none is a hang), and within this at most.
WINDOW_PART, LONGEST_WINDOW_S = 0.5, 30.0
# The only instance of a pool has no other to be compared with: a machine that stands still, and a hang, look alike for
# a while. It is suspected after so many times the silence, which costs it a question, and its calls nothing.
LONE_TIMES: Final = 4.0
# An hour's cures are counted as one lot.
CURES_WITHIN_S: Final = 3600.0


class Kind(IntEnum):
    """What is waited for until the first byte."""

    STREAM = 0  # the first token
    WHOLE = 1  # all of an answer, however long it becomes
    BOUNDED = 2  # all of an answer that may have so many tokens


class Asked(NamedTuple):
    """A call as far as it decides how long its first byte may take. `size`: bytes of prompt, or worth as many."""

    kind: Kind
    size: int
    times: float = 1.0  # more patience with a call that was given up before


# A member of an enumeration costs more to look up than what is done with it.
_OLLAMA: Final = Dialect.OLLAMA
_STREAM, _WHOLE, _BOUNDED = Kind


def asked_of(call: Call, body_bytes: int, failures: int = 0) -> Asked:
    """What is waited for. A call that failed before has twice the time: its own slowness may have been the cause."""
    return Asked(*measure_of(call, body_bytes), float(1 << failures))


def measure_of(call: Call, body_bytes: int) -> tuple[Kind, int]:
    """What is waited for, and its size."""
    if call.is_stream:
        return _STREAM, body_bytes
    tokens = most_answer_tokens(call)
    if tokens is None:
        return _WHOLE, body_bytes
    return _BOUNDED, body_bytes + tokens * BYTES_A_TOKEN_WRITTEN


def most_answer_tokens(call: Call) -> int | None:
    """The most that the answer may have; None: not said."""
    body = call.body
    if call.endpoint.dialect is _OLLAMA:
        if not (options := body.get("options")):
            return None
        told = options.get("num_predict") if isinstance(options, dict) else None
    else:
        told = body.get("max_tokens") or body.get("max_completion_tokens") or body.get("max_output_tokens")
    return told if isinstance(told, int) and told > 0 else None


class History:
    """First bytes of one pool, by kind and by size: seconds from the request to each. Changed only by `add`."""

    __slots__ = ("_lately",)

    def __init__(self) -> None:
        # By kind, then by the size's bits: what is alike within a factor of two.
        self._lately: tuple[dict[int, deque[float]], ...] = ({}, {}, {})

    def add(self, kind: Kind, size: int, seconds: float) -> None:
        """Once a call, so without a value made for it."""
        bits = size.bit_length()
        lately = self._lately[kind].get(bits)
        if lately is None:
            lately = self._lately[kind][bits] = deque(maxlen=LATELY)
        lately.append(seconds)

    def allows_s(self, asked: Asked, at_least_s: float) -> float | None:
        """The longest silence before the first byte of such a call; None: too little is known of its kind."""
        lately = self._lately[asked.kind]
        if sum(map(len, lately.values())) < ENOUGH:
            return None
        bits = asked.size.bit_length()
        like = lately.get(bits, ())
        if len(like) >= ENOUGH:
            usual_s = _high(like)
        else:  # what is smaller would take as much longer as it were larger
            usual_s = max(_high(each) * float(1 << max(0, bits - of)) for of, each in lately.items())
        return max(at_least_s, reading_s(asked), usual_s * USUAL_TIMES) * asked.times

    def window_s(self, at_least_s: float) -> float:
        """Within what time instances that answer give a sign of it."""
        usual_s = max((_high(each) for lately in self._lately for each in lately.values()), default=0.0)
        return min(max(usual_s, at_least_s * WINDOW_PART), LONGEST_WINDOW_S)


def reading_s(asked: Asked) -> float:
    """How long the slowest machine takes for what was asked, with nothing of it in a cache."""
    return max(0, asked.size - ENVELOPE_BYTES) * SLOWEST_S_A_BYTE


def _high(seconds: Sequence[float]) -> float:
    """What few exceed: the longest, or of many the second, so that one hang that ended does not stand for all."""
    if len(seconds) < LATELY // 2:
        return max(seconds)
    return sorted(seconds)[-2]


def allowed_silence_s(history: History, waiting: Iterable[Asked], at_least_s: float) -> float | None:
    """How long an instance with these calls may give no byte at all; None: nobody can tell.

    It may read their prompts one after the other, the long one first: sizes add up, and the slowest decides for all.
    """
    slowest_s, all_s = 0.0, 0.0
    for each in waiting:
        allowed_s = history.allows_s(each, at_least_s)
        if allowed_s is None:
            return None
        slowest_s = max(slowest_s, allowed_s)
        all_s += reading_s(each)
    return max(slowest_s, all_s)


# --- and what is done about it ---------------------------------------------------------------------------------------


class Suspicion(NamedTuple):
    """What a gateway has to say of an instance that answers nobody while others do."""

    silent_s: float
    allowed_s: float
    calls: int  # that wait there
    is_lone: bool = False  # there is no other of its pool

    def __str__(self) -> str:
        calls = "1 call" if self.calls == 1 else f"{self.calls} calls"
        beside = ", the only one of its pool" if self.is_lone else " while others answered"
        usual = f"its history allows {self.allowed_s:.1f} s"
        return f"silent for {self.silent_s:.1f} s to {calls}{beside}; {usual}"


class Cure(StrEnum):
    """What brings a silent instance back, the mildest first."""

    UNLOAD = "unload"  # its model, and load it again
    RESTART = "restart"  # its process
    NONE = "none"  # left alone, without calls, and asked now and then


@dataclass(frozen=True, slots=True)
class Means:
    """What can be done for an instance."""

    unloads: bool  # its engine lets a model go while it runs
    restarts: bool  # its process is ours


def next_cure(
    means: Means, failed: Sequence[Cure], cured_at_s: Iterable[float], now_s: float, at_most: int
) -> tuple[Cure, str]:
    """What is to be tried next, and where that is nothing, why.

    `failed`: what was tried since it fell silent, in vain; `cured_at_s`: when anything was done to it at all.
    """
    lately = sum(now_s - each < CURES_WITHIN_S for each in cured_at_s)
    if lately >= at_most:
        return Cure.NONE, f"{lately} cures within an hour are all that it gets (`limits.cures_an_hour`)"
    if means.unloads and Cure.UNLOAD not in failed:
        return Cure.UNLOAD, ""
    if means.restarts:
        return Cure.RESTART, ""
    done = "unloading its model did not help, and " if failed else ""
    return Cure.NONE, f"{done}its process is not ours to restart: restart it where it runs"


def may_be_out(out: int, members: int) -> bool:
    """Whether one more of a pool's `members` may be taken out while `out` are: never more than half of them.

    The only one may: silent as it is, it serves nobody, and nobody but it can be asked.
    """
    return out + 1 <= members / 2 or (members == 1 and out == 0)
