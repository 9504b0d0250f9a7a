"""An answer as the cache keeps it: what was said, when, and until when it is fresh. Its form in bytes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import orjson

from orchestrator.core.model import Answer, Finish, ToolCall

TAGS_MAX, TAG_LETTERS_MAX = 8, 64
_FINISHES = {each.value: each for each in Finish}


class Entry(NamedTuple):
    """Times are unix seconds. Past `fresh_until_s` a policy may still give it, until Redis forgets it at `ends_s`."""

    answer: Answer
    kept_at_s: float
    fresh_until_s: float
    ends_s: float


class About(NamedTuple):
    """What may be told of a kept answer without reading it: never a word of question or answer."""

    scope: str  # the pool or route that was asked
    is_route: bool
    tenant: str  # the API key it was made for; '' where every key may have it
    tags: tuple[str, ...] = ()


def entry_bytes(entry: Entry) -> bytes:
    return orjson.dumps(entry._asdict())


def entry_from(kept: bytes) -> Entry:
    """Raises ValueError where `kept` is no entry: an older version's, or not ours."""
    try:
        told = orjson.loads(kept)
        return Entry(answer_from(told["answer"]), told["kept_at_s"], told["fresh_until_s"], told["ends_s"])
    except (TypeError, KeyError, AttributeError) as why:
        raise ValueError(f"not an answer as this version keeps them: {why}") from why


def answer_from(told: dict[str, Any]) -> Answer:
    """An answer as JSON tells it; `told` becomes part of it."""
    told["tool_calls"] = tuple([ToolCall(each["id"], each["name"], each["arguments"]) for each in told["tool_calls"]])
    told["finish"] = _FINISHES[told["finish"]]
    return Answer(**told)


def about_text(about: About) -> str:
    return orjson.dumps(about._asdict()).decode()


def about_from(text: bytes | str) -> About:
    told = orjson.loads(text)
    return About(told["scope"], told["is_route"], told["tenant"], tuple(told["tags"]))


def tags_from(header: str) -> tuple[str, ...]:
    """What a caller would have its answer purged by: names with commas between, eight of 64 letters at most."""
    if not header:
        return ()
    named = (each.strip() for each in header.split(","))
    kept = dict.fromkeys(each[:TAG_LETTERS_MAX] for each in named if each and each.isprintable())
    return tuple(kept)[:TAGS_MAX]


def told_of(entry: Entry, now_s: float) -> dict[str, object]:
    """An entry for people and programs."""
    return {
        "age_s": round(now_s - entry.kept_at_s, 1),
        "fresh_for_s": round(max(0.0, entry.fresh_until_s - now_s), 1),
        "ends_in_s": round(max(0.0, entry.ends_s - now_s), 1),
        "answer": asdict(entry.answer),
    }
