"""What a call may ask of an engine at most: numbers that only cost it memory or time are cut to what has a use.

An engine takes most of them as they come. A billion for `repeat_last_n` is a buffer of 4 GB, and the process that
asked for it is gone with everybody's answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, TypeGuard

from orchestrator.core.dialects.errors import caller_error
from orchestrator.core.model import Call, Dialect, Endpoint

# Each is looked for behind every token.
STOPS_AT_MOST: Final = 64
# A sampler sorts so many tokens at most: no vocabulary has more.
_TOP_K_AT_MOST: Final = 1_000_000
_TOKENS: Final[Mapping[Endpoint, tuple[str, ...]]] = {
    Endpoint.OPENAI_CHAT: ("max_tokens", "max_completion_tokens"),
    Endpoint.OPENAI_COMPLETIONS: ("max_tokens",),
    Endpoint.OPENAI_RESPONSES: ("max_output_tokens",),
    Endpoint.ANTHROPIC_MESSAGES: ("max_tokens",),
}
_BOUNDED: Final = frozenset({"num_predict", "num_keep", "repeat_last_n", "top_k"})
_NO_OPTIONS: Final[Mapping[str, Any]] = {}


def with_answer_limit(call: Call, tokens: int) -> Call:
    """The call, its answer no longer than `tokens`, whatever it says or leaves out."""
    if not call.endpoint.is_answered_in_words:
        return call
    if call.endpoint.dialect is Dialect.OLLAMA:
        options = call.body.get("options") or _NO_OPTIONS
        asked = options.get("num_predict")
        if _is_number(asked) and 0 < asked <= tokens:
            return call
        return replace(call, body={**call.body, "options": {**options, "num_predict": tokens}})
    names = _TOKENS[call.endpoint]
    asked_here = {name: call.body[name] for name in names if _is_number(call.body.get(name))}
    if asked_here and all(0 < each <= tokens for each in asked_here.values()):
        return call
    return replace(call, body={**call.body, **dict.fromkeys(asked_here or names[:1], tokens)})


def bounded(call: Call, context: int) -> Call:
    """The call without numbers beyond all use, where the pool's `context` (0: not known) says what that is.

    Raises CallerError 400 for more texts to stop at than anybody looks for.
    """
    if call.endpoint.dialect is not Dialect.OLLAMA:
        changes = dict(_too_many_tokens(call, context))
        _check_stops(call.body.get("stop") or call.body.get("stop_sequences"))
        return replace(call, body={**call.body, **changes}) if changes else call
    options = call.body.get("options")
    if not options:
        return call
    if "stop" in options:
        _check_stops(options["stop"])
    if _BOUNDED.isdisjoint(options):
        return call
    changes = dict(_bounded(options, context))
    return replace(call, body={**call.body, "options": {**options, **changes}}) if changes else call


def _too_many_tokens(call: Call, context: int) -> Iterator[tuple[str, int]]:
    for name in _TOKENS.get(call.endpoint, ()):
        asked = call.body.get(name)
        if _is_number(asked) and context and asked > context:
            yield name, context


def _bounded(options: Mapping[str, Any], context: int) -> Iterator[tuple[str, Any]]:
    """Options that are beyond their bounds, within them. Below zero is a word to each: without end, or all there is."""
    for name, asked in options.items():
        if name not in _BOUNDED or not _is_number(asked):
            continue
        at_most = _TOP_K_AT_MOST if name == "top_k" else context
        if at_most and asked > at_most:
            yield name, at_most
        elif asked < -1 and name != "num_predict":
            yield name, -1


def _check_stops(stops: object) -> None:
    if isinstance(stops, list) and len(stops) > STOPS_AT_MOST:
        raise caller_error(400, f"an answer may stop at {STOPS_AT_MOST} texts at most")


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
