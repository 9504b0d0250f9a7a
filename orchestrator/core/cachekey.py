"""Which calls the answer cache may answer, and under which key.

A key must change with everything that can change an answer. So it is made of the whole request less a short list of
fields that cannot; a field nobody here has heard of is in it. What is kept, where and how long is the store's.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any

import orjson

from orchestrator.core.dialects.conversation import (
    chat_messages,
    drawn_by,
    is_told_by_sampling,
    sampling,
    wanted_thinking,
)
from orchestrator.core.dialects.parse import is_load_request
from orchestrator.core.folding import folded
from orchestrator.core.model import Call, Endpoint

# The only fields without a say in the answer: how it travels, how long the model stays loaded after it, and for whose
# books it is. `model` is in the key as the target, under which every spelling of its name is one.
_NOT_IN_KEY = frozenset({
    *("model", "stream", "stream_options", "keep_alive", "user", "metadata"),
    *("store", "service_tier", "safety_identifier", "prompt_cache_key"),
})  # fmt: skip

# A kept answer is text, thinking and tool calls. These ask for more, or for tokens of one run to go on from.
_NEVER_KEPT = frozenset({"logprobs", "top_logprobs", "context"})

# With these a generate call's prompt goes to the model as it is, where a blank at its end is a token that counts.
_VERBATIM = ("raw", "suffix", "template")

# Where a conversation has its system's and its only user's words beside its messages.
_TEXTS_OF_CHATS = ("system", "instructions", "input")

# Where a call has its question, and whether it is to be thought about.
_ASKS = frozenset({"messages", "prompt", "input", "think", "reasoning_effort"})
_NOT_TOLD_APART = _NOT_IN_KEY | _ASKS  # of a plain question: these are told in no dialect, or not at all

_KEY_BYTES = 24
_SECRET_BYTES_MAX = 64  # of blake2b
_FORMAT = 3  # raised when the form below changes, so that old answers are not found under new keys


def normalise(text: str) -> str:
    """`text` with one spelling for what a reader cannot see: composed letters, line ends, blanks at the ends.

    No more than that; `folding` does more, for single plain questions. Case is not folded: "SINIR" is "sınır" (border)
    but the small letters of the I in English are others, and a model answers "us" and "US" differently. NFKC would make
    102 of 10², runs of blanks are code, and trailing punctuation can be the question ("5!"). Blanks before the first
    word of a line are its indentation.
    """
    composed = text if text.isascii() else unicodedata.normalize("NFC", text)
    if "\r" in composed:
        composed = composed.replace("\r\n", "\n").replace("\r", "\n")
    return composed.rstrip().lstrip("\n")


def answer_key(*, tenant: str, target: str, call: Call, secret: bytes, question: str = "", folds: bool = False) -> str:
    """The key of a call's answer, 48 hex digits that tell nothing to who does not know `secret`.

    `target` is the pool or the route that was asked. Streamed or not is one key. `question`: the only one that the call
    asks, with nothing around it; where nothing else counts but how it is drawn, it is one question in every dialect.
    Other calls are others in another endpoint, since templates and defaults differ. With `folds` every spelling of
    the question is one where its letter says nothing. Raises ValueError for an empty secret.
    """
    if not secret:
        raise ValueError("the answer cache needs a secret: without one its keys can be guessed from questions")
    asked = [_FORMAT, tenant, target, *(_plainly(call, question, folds=folds) or (call.endpoint.value, _asked(call)))]
    key = secret if len(secret) <= _SECRET_BYTES_MAX else hashlib.blake2b(secret).digest()
    return hashlib.blake2b(_canonical(asked), digest_size=_KEY_BYTES, key=key).hexdigest()


def _plainly(call: Call, question: str, *, folds: bool) -> tuple[Any, ...]:
    """A call as a question and how its answer is drawn, in no dialect; nothing where it says more than that."""
    if not question:
        return ()
    body = call.body
    for name in body.keys() - _NOT_TOLD_APART:
        if body[name] and not is_told_by_sampling(call, name):
            return ()
    drawn = {name: float(value) if type(value) is int else value for name, value in sampling(call).items()}
    if "seed" in drawn and "temperature" not in drawn:
        return ()  # how far a seed's draw goes is each dialect's own default
    spelling = (folded(question) if folds else None) or normalise(question)
    return ("a question", spelling, drawn, wanted_thinking(call))


def family_key(*, tenant: str, target: str, call: Call, question: str, secret: bytes) -> str:
    """The key of all calls that differ from this one in nothing but their question; '' where that cannot be told.

    That is where the question stands in the call once, as it is: not put together from parts, nor in two places.
    """
    marks: list[None] = []
    rest = _without(_asked(call), normalise(question), marks)
    if len(marks) != 1:
        return ""
    return answer_key(tenant=tenant, target=f"family\n{target}", call=replace(call, body={"rest": rest}), secret=secret)


def _without(value: Any, text: str, marks: list[None]) -> Any:
    """`value` without `text`, and a mark for each place where it stood."""
    if isinstance(value, Mapping):
        return {name: _without(each, text, marks) for name, each in value.items()}
    if isinstance(value, list):
        return [_without(each, text, marks) for each in value]
    if isinstance(value, str) and normalise(value).strip() == text:
        marks.append(None)
        return None
    return value


def scope_key(*, tenant: str, secret: bytes) -> str:
    """A name for those who share answers, which says nothing of who they are."""
    told = _canonical([tenant])
    return hashlib.blake2b(told, digest_size=12, key=secret[:_SECRET_BYTES_MAX], person=b"questions").hexdigest()


def is_deterministic(call: Call) -> bool:
    """The caller asked for one certain answer: temperature 0, or a seed (a negative one means "draw one" to Ollama)."""
    if _is_number(temperature := drawn_by(call, "temperature")) and temperature == 0:
        return True
    return _is_number(seed := drawn_by(call, "seed")) and bool(seed >= 0)


class Bypass(StrEnum):
    """Why the cache has no part in a call."""

    OFF = "off"  # the cache, or this route's or these models' part of it
    NO_STORE = "no_store"  # the caller's Cache-Control
    KIND = "kind"  # vectors, counts, loading: nothing that is said
    FIELDS = "fields"  # wants what is not kept with an answer
    TOOLS = "tools"  # an agent that repeats itself wants another try
    DRAWN = "drawn"  # neither temperature 0 nor a seed, where the policy asks for one


def bypass(policy: str, call: Call, headers_no_store: bool = False) -> Bypass | None:
    """Why the cache may not be asked for this call's answer nor keep it; None where it may.

    `policy`: off, deterministic or all.
    Never: embeddings (a vector is no answer in words, and cheaper to make than to keep), counts of tokens (likewise),
    loading and unloading (their effect is the point), calls that want log probabilities or go on from a `context` (not
    kept with an answer).
    Under `all`, a call with tools or their results still has to be deterministic: an agent that repeats itself wants
    another try, and the same tool call for ever would be a loop that nothing ends.
    """
    if headers_no_store:
        return Bypass.NO_STORE
    if policy not in ("deterministic", "all"):
        return Bypass.OFF
    if not call.endpoint.is_answered_in_words or is_load_request(call):
        return Bypass.KIND
    if not _NEVER_KEPT.isdisjoint(call.body) and any(call.body.get(field) for field in _NEVER_KEPT):
        return Bypass.FIELDS
    if is_deterministic(call):
        return None
    if policy != "all":
        return Bypass.DRAWN
    return Bypass.TOOLS if _has_tools(call) else None


def target_of(name: str, digests: Iterable[str]) -> str:
    """What a key is made for: the pool or route that was asked, and the models that answer for it as they are now.

    A model that was pulled anew under its old name gives other answers: its old ones are not found any more.
    """
    return "\n".join((name, *digests))


def receipt(*, tenant: str, key: str, secret: bytes) -> str:
    """What proves that `tenant` was given what lies under `key`: whoever shows it may call the answer wrong."""
    told = _canonical([tenant, key])
    return hashlib.blake2b(told, digest_size=12, key=secret[:_SECRET_BYTES_MAX], person=b"receipt").hexdigest()


def _is_number(value: object) -> bool:
    """A JSON number, which true and false are not, though Python counts with them."""
    return type(value) is int or type(value) is float


def _has_tools(call: Call) -> bool:
    if call.body.get("tools") or call.body.get("functions"):
        return True
    return any(
        isinstance(message, dict) and (message.get("tool_calls") or str(message.get("role")).lower() == "tool")
        for message in (chat_messages(call) if call.endpoint.is_chat else ())
    )


def _asked(call: Call) -> dict[str, Any]:
    """The fields with a say in the answer; texts that people write are normalised, everything else is as it came."""
    body = {name: value for name, value in call.body.items() if name not in _NOT_IN_KEY}
    if call.endpoint.is_chat:
        body |= {
            name: [*map(_message, body[name])] for name in ("messages", "input") if isinstance(body.get(name), list)
        }
        body |= {name: normalise(body[name]) for name in _TEXTS_OF_CHATS if isinstance(body.get(name), str)}
    elif call.endpoint is Endpoint.OLLAMA_GENERATE and not any(body.get(field) for field in _VERBATIM):
        body |= {name: normalise(body[name]) for name in ("prompt", "system") if isinstance(body.get(name), str)}
    return body


def _message(message: Any) -> Any:
    """Only what a user or the system says: an assistant's last words may be the start of the answer, blanks and all."""
    if not isinstance(message, dict) or message.get("role") not in ("user", "system"):
        return message
    content = message.get("content")
    if not isinstance(content, str) or (said := normalise(content)) == content:
        return message
    return {**message, "content": said}


def _canonical(value: object) -> bytes:
    """One text for equal values, whatever the order of their fields; different values never share one."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # numbers beyond 64 bits and halves of letters, which lenient JSON lets through
        return json.dumps(value, sort_keys=True).encode()
