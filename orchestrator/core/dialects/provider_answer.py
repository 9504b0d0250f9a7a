"""The answer of an outside provider on its way to a caller: put into the caller's dialect, or passed on as it is.

`ProviderTranslator` is for callers of other dialects, `PassedOn` for those of OpenAI's chat, who get the provider's own
events. Both keep what the answer cost: providers tell it in several places. `fault_of` says whose trouble an error is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

import orjson

from orchestrator.core.dialects.errors import caller_error, error_frame
from orchestrator.core.dialects.frames import DONE_EVENT, Head, Stats
from orchestrator.core.dialects.malformed import WRONG_FORM
from orchestrator.core.dialects.tokens import tokens_told
from orchestrator.core.dialects.translate import BROKEN, Translator
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Call, Dialect, Endpoint

OnLogprobs = Callable[[Sequence[Mapping[str, Any]]], None]

# Of letters heard, for a first count where nobody tells one: texts have 3 to 5 a token.
LETTERS_A_TOKEN: Final = 4


class Used(NamedTuple):
    """Tokens of one answer, as the provider told them. `reasoning` is part of `completion`, `cached` of `prompt`."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    cached: int = 0


class Meter:
    """What an answer has cost so far: as told, or by the letters that came where it ended without a word of it."""

    __slots__ = ("_letters", "used")

    def __init__(self) -> None:
        self.used: Used | None = None
        self._letters = 0

    def read(self, event: Mapping[str, Any]) -> None:
        """One event or body."""
        told = event.get("usage") or (event.get("x_groq") or {}).get("usage")
        if isinstance(told, Mapping) and told.get("prompt_tokens") is not None:
            self.used = _used(told)

    def hear(self, text: str) -> None:
        self._letters += len(text)

    @property
    def heard_tokens(self) -> int:
        """A guess at the answer's tokens."""
        return -(-self._letters // LETTERS_A_TOKEN)


def _used(told: Mapping[str, Any]) -> Used:
    of_prompt, of_answer = told.get("prompt_tokens_details"), told.get("completion_tokens_details")
    cached = of_prompt.get("cached_tokens") if isinstance(of_prompt, Mapping) else told.get("prompt_cache_hit_tokens")
    reasoning = of_answer.get("reasoning_tokens") if isinstance(of_answer, Mapping) else None
    prompt, completion = tokens_told(told.get("prompt_tokens")), tokens_told(told.get("completion_tokens"))
    return Used(prompt, completion, tokens_told(reasoning), tokens_told(cached))


class ProviderTranslator(Translator):
    """For callers of any dialect but OpenAI's chat."""

    def __init__(self, call: Call, model: str, clock: Any = None) -> None:
        super().__init__(call, model, clock)
        self.meter = Meter()

    def finish(self) -> bytes:
        """As a `Translator`'s; a stream that told why it ends and then ends without `[DONE]` is whole."""
        if not self._call.is_stream or self._rest or self._is_over or self._finish is None:
            return super().finish()
        try:
            return self._end()
        except WRONG_FORM:
            return self._fail(BROKEN)

    def _event(self, event: Mapping[str, Any]) -> bytes:
        self.meter.read(event)
        if (why := _ended_by_error(event)) is not None:
            return self._fail(why)
        return super()._event(event)

    def _answer(self, given: Mapping[str, Any], choice: Mapping[str, Any], head: Head) -> bytes:
        self.meter.read(given)
        if self.on_logprobs is not None:
            self.on_logprobs(_logprobs(choice))
        return super()._answer(given, choice, head)

    def _said(self, part: Mapping[str, Any], choice: Mapping[str, Any]) -> tuple[str, str]:
        text, thinking = _said(part)
        self.meter.hear(text)
        self.meter.hear(thinking)
        return text, thinking

    def _stats(self, last: Mapping[str, Any], now: Any) -> Stats:
        stats = super()._stats({}, now)
        used = self.meter.used or Used()
        return Stats(
            total_ns=stats.total_ns,
            prompt_tokens=used.prompt,
            completion_tokens=used.completion,
            cached_tokens=used.cached,
        )


class PassedOn:
    """For callers of OpenAI's chat: the provider's events, whole; of counts that the caller did not ask for, none."""

    def __init__(self, call: Call) -> None:
        options = call.body.get("stream_options")
        self._shows_usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
        self._is_stream = call.is_stream
        self._rest = bytearray()
        self._has_finish = self._is_over = False
        self._asked_logprobs = bool(call.body.get("logprobs"))
        self.on_logprobs: OnLogprobs | None = None  # who else wants to know them
        self.meter = Meter()

    def feed(self, data: bytes) -> bytes:
        """The provider's next bytes; the events that they complete."""
        self._rest += data
        if not self._is_stream:
            return b""
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        return b"".join(map(self._line, lines))

    def finish(self) -> bytes:
        """The provider's answer is over: its body, or what its stream still lacks."""
        if not self._is_stream:
            return self._body()
        out = self._line(self._rest) if self._rest else b""
        self._rest.clear()
        if self._is_over:
            return out
        if not self._has_finish:
            return out + self._fail("the provider's answer ended before it was whole")
        self._is_over = True
        return out + DONE_EVENT

    def error(self, status: int, body: bytes) -> CallerError | None:
        """As of a `ProviderTranslator`."""
        return fault_of(Endpoint.OPENAI_CHAT, status, body).mistake

    def _body(self) -> bytes:
        body = bytes(self._rest)
        try:
            given = orjson.loads(body)
            self.meter.read(given)
            for choice in given["choices"]:
                self._hear(choice, choice.get("message") or {})
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return body  # what is no answer is not taken for one by who reads it
        return orjson.dumps(given) if self._hide_logprobs(given["choices"]) else body

    def _line(self, line: bytes | bytearray) -> bytes:
        name, _, value = bytes(line).strip().partition(b":")
        value = value.strip()
        if self._is_over or name not in (b"data", b"error"):  # comments that keep connections open are for us
            return b""
        if value == b"[DONE]":
            self._is_over = True
            return DONE_EVENT
        try:
            event = orjson.loads(value)
            return self._event(event, value)
        except (orjson.JSONDecodeError, TypeError, AttributeError):
            return self._fail("the provider sent what is no event")

    def _event(self, event: dict[str, Any], value: bytes) -> bytes:
        self.meter.read(event)
        if (why := _ended_by_error(event)) is not None:
            return self._fail(why)
        choices = event.get("choices") or ()
        for choice in choices:
            self._hear(choice, choice.get("delta") or {})
            self._has_finish = self._has_finish or bool(choice.get("finish_reason"))
        hides_usage = not self._shows_usage and ("usage" in event or "x_groq" in event)
        if hides_usage and not choices:
            return b""
        if not self._hide_logprobs(choices) and not hides_usage:
            return b"data: " + value + b"\n\n"
        hidden = ("usage", "x_groq") if hides_usage else ()
        return b"data: " + orjson.dumps({name: each for name, each in event.items() if name not in hidden}) + b"\n\n"

    def _hear(self, choice: Mapping[str, Any], part: Mapping[str, Any]) -> None:
        for each in _said(part):
            self.meter.hear(each)
        if self.on_logprobs is not None:
            self.on_logprobs(_logprobs(choice))

    def _hide_logprobs(self, choices: Iterable[dict[str, Any]]) -> bool:
        """Take out what only we have asked for; whether there was any."""
        if self.on_logprobs is None or self._asked_logprobs:
            return False
        taken = [choice.pop("logprobs", None) for choice in choices]
        return any(each is not None for each in taken)

    def _fail(self, why: str) -> bytes:
        self._is_over = True
        return error_frame(Endpoint.OPENAI_CHAT, why)


def _logprobs(choice: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return (choice.get("logprobs") or {}).get("content") or ()


def _said(part: Mapping[str, Any]) -> tuple[str, str]:
    """Text and thinking, which providers put into three places."""
    content = part.get("content")
    thinking = part.get("reasoning_content") or part.get("reasoning") or ""
    if isinstance(content, list):  # Mistral's models that think
        texts = "".join(each.get("text") or "" for each in content if each.get("type") == "text")
        thoughts = (each.get("thinking") or () for each in content if each.get("type") == "thinking")
        parts = [inner for thought in thoughts for inner in (thought if isinstance(thought, list) else ())]
        return texts, "".join(each.get("text") or "" for each in parts)
    return content if isinstance(content, str) else "", thinking if isinstance(thinking, str) else ""


def _ended_by_error(event: Mapping[str, Any]) -> str | None:
    """What a stream that was begun says of its own failure; some say it in a last choice, too."""
    error = event.get("error")
    if isinstance(error, Mapping):
        return str(error.get("message") or error)
    if error is not None:
        return str(error)
    reasons = (choice.get("finish_reason") for choice in event.get("choices") or ())
    return "the provider ended its answer by an error" if "error" in reasons else None


# --- errors ----------------------------------------------------------------------------------------------------------


class Blame(Enum):
    """Who can act on a provider's error status."""

    CALLER = 0  # with another request
    KEY = 1  # the operator: the key is refused, or its account has no credit or no leave
    BUSY = 2  # the caller or we, later: too much was asked for
    MODEL = 3  # the operator: the provider does not know the model
    PROVIDER = 4  # nobody here


@dataclass(frozen=True, slots=True)
class Fault:
    """An error of a provider's: who can act, and its words."""

    blame: Blame
    words: str
    mistake: CallerError | None = None  # where it is the caller's


_UNKNOWN_MODEL: Final = re.compile(
    r"model.{0,80}(not found|does not exist|decommissioned)|(in|not a )valid model", re.I
)
_REFUSED_KEY: Final = re.compile(r"api key (not valid|expired)|(invalid|incorrect|missing) api key", re.IGNORECASE)
_TOO_LONG: Final = re.compile(r"context.length|maximum context|too many tokens|prompt is too long", re.IGNORECASE)
_BLAMED: Final[Mapping[int, Blame]] = {
    401: Blame.KEY,
    402: Blame.KEY,
    403: Blame.KEY,
    404: Blame.MODEL,
    429: Blame.BUSY,
}
# 408: it was slow; 409 and 425: at this moment.
_PASSING: Final = frozenset({408, 409, 425})
_WORDS_AT_MOST: Final = 300


def fault_of(endpoint: Endpoint, status: int, body: bytes) -> Fault:
    """Whose trouble an error status is."""
    told = _error_in(body)
    words = " ".join(str(told.get("message") or "").split())[:_WORDS_AT_MOST]
    blame = Blame.KEY if told.get("code") == "insufficient_quota" else _BLAMED.get(status)
    if blame is None and (status >= 500 or status < 400 or status in _PASSING):
        blame = Blame.PROVIDER
    if blame is None and _REFUSED_KEY.search(words):
        blame = Blame.KEY
    if blame is None and (told.get("code") == "model_not_found" or _UNKNOWN_MODEL.search(words)):
        blame = Blame.MODEL
    if blame is not None:
        return Fault(blame, words)
    if endpoint.dialect is Dialect.ANTHROPIC and _TOO_LONG.search(words):
        words = f"prompt is too long: {words}"  # by which its clients know to shorten the conversation
    return Fault(Blame.CALLER, words, caller_error(status, words or f"the provider refused the request ({status})"))


def _error_in(body: bytes) -> Mapping[str, Any]:
    """The error's fields, whose form is not the same with all: within a list, a text alone, or beside its type."""
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"message": body[:_WORDS_AT_MOST].decode("utf-8", "replace")}
    read = read[0] if isinstance(read, list) and read else read
    error = read.get("error", read) if isinstance(read, Mapping) else read
    if isinstance(error, Mapping):
        message = error.get("message") or error.get("detail")
        return {**error, "message": _flat(message)}
    return {"message": _flat(error)}


def _flat(message: object) -> str:
    """One sentence of what may be a list of places that are wrong."""
    if isinstance(message, Mapping):
        return _flat(message.get("detail") or message.get("message") or orjson.dumps(message).decode())
    if isinstance(message, Sequence) and not isinstance(message, str):
        return "; ".join(_flat(each.get("msg") if isinstance(each, Mapping) else each) for each in message)
    return "" if message is None else str(message)
