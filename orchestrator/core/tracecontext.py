"""Whose trace a call belongs to, as W3C Trace Context says it in `traceparent` and `tracestate` (2021).

Whether a call is traced is decided by its caller, or by the trace's id: everybody who has a part of a trace decides the
same by the same share.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

SAMPLED: Final = 1
_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_MEMBER: Final = re.compile(r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]", re.ASCII)
_MOST_MEMBERS: Final = 32
# What has to be handed on, at least, by whoever hands it on at all; more is not taken here.
_LONGEST_STATE: Final = 512


class Parent(NamedTuple):
    """The span that a caller was in; `state` is other systems' own, handed on as it came."""

    trace_id: str
    span_id: str
    is_sampled: bool
    state: str = ""


def parent_of(traceparent: str, tracestate: str = "") -> Parent | None:
    """What a caller's headers say; None where they say nothing that can be read."""
    read = _PARENT.fullmatch(traceparent.strip())
    if read is None:
        return None
    version, trace_id, span_id, flags, more = read.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & SAMPLED), _state(tracestate))


def traceparent(trace_id: str, span_id: str, *, is_sampled: bool) -> str:
    """The header of whoever is asked from within a span."""
    return f"00-{trace_id}-{span_id}-{int(is_sampled):02x}"


def is_in_share(trace_id: str, share: float) -> bool:
    """Whether a trace that nobody has decided on is one of the share that is recorded."""
    return int(trace_id[16:], 16) < share * 2**64


def _state(told: str) -> str:
    """Fit to be handed on, or nothing of it: half a state could be taken for another one."""
    members = [each.strip() for each in told.split(",") if each.strip()]
    kept = ",".join(members)
    is_fit = len(members) <= _MOST_MEMBERS and len(kept) <= _LONGEST_STATE
    return kept if is_fit and all(map(_MEMBER.fullmatch, members)) else ""
