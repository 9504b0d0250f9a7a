"""How an answer that went past as bytes ended, and what it said: for accounts, for retries and for the answer cache.

A stream that died looks like one that ended well but for its last frames. Whole means `done:true` on Ollama's paths, a
finish reason and then `[DONE]` on OpenAI's, `response.completed` of its responses, `message_stop` on Anthropic's. What
is not whole is `is_whole=False`, with the error the engine named, or with None where it named none: Ollama cuts a model
that repeats one token without a word.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import orjson

from orchestrator.core.dialects import anthropic_frames, responses_frames
from orchestrator.core.dialects.malformed import WRONG_FORM
from orchestrator.core.dialects.tokens import tokens_told
from orchestrator.core.dialects.toolparts import ToolCallParts
from orchestrator.core.model import Answer, Dialect, Endpoint, Finish, ToolCall

# Of a stream the end is in its last frames; of a body the counts are, behind a context of some thousand numbers.
TAIL_BYTES: Final = 65_536

# A member of an enumeration costs more to look up than what is done with it.
_RESPONSES, _COUNT = Endpoint.OPENAI_RESPONSES, Endpoint.ANTHROPIC_COUNT
_FINISHES: Final[Mapping[str | None, Finish]] = {each.value: each for each in Finish}
_DELTAS: Final[Mapping[object, str]] = {
    "response.output_text.delta": "content",
    "response.reasoning_summary_text.delta": "thinking",
}

# The end of a stream of OpenAI's.
_DONE: Final = b"data: [DONE]\n\n"

Frame = Mapping[str, Any]
_EMPTY: Final[Frame] = {}


class End(NamedTuple):
    """The end of an answer. `finish` is the engine's word for it, also "load" and "unload"; tokens are 0 if unsaid."""

    is_whole: bool
    finish: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None


def read_end(endpoint: Endpoint, is_stream: bool, tail: bytes) -> End:
    """The end told by the last bytes of a response: of a stream the last few frames, of a body all of it.

    A tail that begins within a frame is fine. Give at least the last `TAIL_BYTES`, or all there was.
    """
    try:
        return _end_of(endpoint, is_stream, tail)
    except WRONG_FORM:
        return End(False)


def _end_of(endpoint: Endpoint, is_stream: bool, tail: bytes) -> End:
    frames = _frames(is_stream, tail)
    has_error = b"error" in tail or endpoint is _RESPONSES
    error = next((text for frame in frames if (text := _error_of(endpoint, frame))), None) if has_error else None
    if endpoint.is_embedding:
        return _end_of_embedding(frames, error)
    if endpoint is _COUNT:
        return _end_of_count(frames, error)
    finish: str | None = None
    counts = (0, 0)
    reading = _READING[endpoint]
    for frame in frames:
        finish = reading.finish_of(frame) or finish
        counts = reading.counts_of(frame) or counts
    is_closed = not is_stream or _is_closed(endpoint, frames, tail)
    return End(finish is not None and is_closed and error is None, finish, *counts, error)


def read_answer(endpoint: Endpoint, is_stream: bool, body: bytes, end: End | None = None) -> Answer | None:
    """The answer in a whole successful response; None where it is not whole, or not an answer (embedding, load).

    `end` is what `read_end` said of it, where it was asked before.
    """
    end = end or read_end(endpoint, is_stream, body)
    if not end.is_whole or end.finish not in _FINISHES or not endpoint.is_answered_in_words:
        return None
    try:
        return _answer_of(endpoint, is_stream, body, end)
    except WRONG_FORM:
        return None


def _answer_of(endpoint: Endpoint, is_stream: bool, body: bytes, end: End) -> Answer | None:
    parts = list(map(_READING[endpoint].part_of, _frames(is_stream, body)))
    called = [called for part in parts if (called := part.get("tool_calls"))]
    tool_calls = _whole_calls(called) if called else ()
    if tool_calls is None:
        return None
    thinking, text = _said(parts)
    # Ollama's own paths say "stop" where an answer ends by calling tools.
    finish = Finish.TOOL_CALLS if tool_calls and end.finish == Finish.STOP else _FINISHES[end.finish]
    return Answer(text, finish, thinking, tool_calls, end.prompt_tokens, end.completion_tokens)


def _whole_calls(called: Sequence[Sequence[Frame]]) -> tuple[ToolCall, ...] | None:
    calls = ToolCallParts()
    for each in called:
        calls.add(each)
    return calls.whole()


class Told(NamedTuple):
    """One frame of a stream, and what it tells."""

    frame: Frame
    text: str
    thinking: str
    calls: int  # of tools, or parts of them
    finish: str | None
    counts: tuple[int, int] | None
    error: str | None


def read_frames(endpoint: Endpoint, data: bytes) -> list[Told]:
    """Each frame of a stream, or of a part of one that is made of whole frames."""
    told = []
    for frame in _frames(True, data):
        with suppress(*WRONG_FORM):  # of one that says nothing, nothing is told
            told.append(_told_by(endpoint, frame))
    return told


def _told_by(endpoint: Endpoint, frame: Frame) -> Told:
    reading = _READING[endpoint]
    part = reading.part_of(frame)
    thinking, text = _said([part])
    calls = len(part.get("tool_calls") or ())
    ends = reading.finish_of(frame), reading.counts_of(frame), _error_of(endpoint, frame)
    return Told(frame, text, thinking, calls, *ends)


class Listener:
    """What a stream says, as its bytes come: thinking and text. Tool calls are told by the whole answer alone."""

    __slots__ = ("_endpoint", "_rest")

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._rest = b""

    def feed(self, data: bytes) -> tuple[str, str]:
        """The next bytes; thinking and text that they complete. A line that is cut waits for its rest."""
        data = self._rest + data if self._rest else data
        end = data.rfind(b"\n") + 1
        self._rest, data = data[end:], data[:end]
        try:
            return _said([self._part(frame) for frame in _frames(True, data)]) if data else ("", "")
        except WRONG_FORM:
            return "", ""

    def _part(self, frame: Frame) -> Frame:
        if self._endpoint is not _RESPONSES:
            return _READING[self._endpoint].part_of(frame)
        name = _DELTAS.get(frame.get("type"))  # its last event tells all of it once more
        return {name: frame.get("delta")} if name else {}


class Hearing:
    """All that an answer says, as its whole frames come: for who judges it before it is shown.

    `logprobs`: one for each token as far as the frames tell them; `pieces`: frames that said something; `counts`:
    tokens of prompt and answer, once they are told; `is_over`: its last frame has come.
    """

    __slots__ = ("_calls", "_endpoint", "_text", "counts", "finish", "is_over", "logprobs", "pieces")

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._calls = ToolCallParts()
        self._text: list[str] = []
        self.logprobs: list[float] = []
        self.pieces = 0
        self.counts = (0, 0)
        self.finish: str | None = None
        self.is_over = False

    @property
    def text(self) -> str:
        """What it says, without its thinking."""
        return "".join(self._text)

    @property
    def tool_calls(self) -> int:
        return len(self._calls)

    def frame(self, data: bytes) -> bool:
        """One frame of a stream; whether it tells anything of the answer, or of its end."""
        if self._endpoint.dialect is Dialect.OPENAI and data.strip() == b"data: [DONE]":
            self.is_over = True
            return True
        tells = False
        for frame in _frames(True, data):
            tells |= self._heard(frame)
        return tells

    def body(self, data: bytes) -> None:
        """A whole body."""
        for frame in _frames(False, data):
            self._heard(frame)
        self.is_over = True

    def _heard(self, frame: Frame) -> bool:
        endpoint = self._endpoint
        part = self._part(frame)
        thinking, text = _said([part])
        calls = part.get("tool_calls") or ()
        self._text.append(text)
        self._calls.add(calls)
        self.pieces += bool(thinking or text or calls)
        self.logprobs += _logprobs(endpoint, frame)
        reading = _READING[endpoint]
        finish = reading.finish_of(frame)
        self.finish = finish or self.finish
        self.counts = reading.counts_of(frame) or self.counts
        if endpoint.dialect is Dialect.ANTHROPIC:
            self.is_over |= frame.get("type") == "message_stop"
        elif endpoint.dialect is Dialect.OLLAMA or endpoint is _RESPONSES:
            self.is_over |= finish is not None
        return bool(thinking or text or calls or finish)

    def _part(self, frame: Frame) -> Frame:
        if self._endpoint is _RESPONSES and frame.get("type") in _DELTAS:
            return {_DELTAS[frame["type"]]: frame.get("delta")}
        if self._endpoint is _RESPONSES and self._text and frame.get("type"):
            whole = responses_frames.part_of(frame)  # its last event tells all of it once more
            return {"tool_calls": whole.get("tool_calls")}
        return _READING[self._endpoint].part_of(frame)


def _logprobs(endpoint: Endpoint, frame: Frame) -> list[float]:
    """Of the tokens in a frame or body, as far as they are told."""
    told = frame.get("logprobs") if endpoint.dialect is Dialect.OLLAMA else _choice(frame).get("logprobs")
    entries = told.get("content") if isinstance(told, Mapping) else told
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        return []
    return [float(each["logprob"]) for each in entries if isinstance(each, Mapping) and "logprob" in each]


def _said(parts: Sequence[Frame]) -> tuple[str, str]:
    """Thinking and text of all parts."""
    text = [part.get("content") or part.get("response") or part.get("text") or "" for part in parts]
    thinking = [part.get("thinking") or part.get("reasoning") or "" for part in parts]
    return _joined(thinking), _joined(text)


def _joined(told: Sequence[Any]) -> str:
    try:
        return "".join(told)
    except TypeError:  # what is no text says nothing
        return "".join([each for each in told if isinstance(each, str)])


def _frames(is_stream: bool, data: bytes) -> Sequence[Frame]:
    """The JSON objects of a response. What is no whole object is passed over: a tail may begin within a frame."""
    if not is_stream:
        return _only_frame(data)
    found = _all_in(_lines_alike(data))
    if found is None:  # among them are comments, other line ends, or what is no JSON
        texts = _texts(data)
        found = _all_in(texts)
        if found is None:
            found = list(map(_loaded, texts))
    return found if {*map(type, found)} == {dict} else [each for each in found if isinstance(each, dict)]


def _all_in(texts: Sequence[bytes]) -> list[Any] | None:
    """What each says, read as one document, which costs a third of as many small ones; None where it is none."""
    found = _loaded(b"[%b]" % b",".join(texts))
    return found if isinstance(found, list) else None


def _lines_alike(data: bytes) -> Sequence[bytes]:
    """Of most streams, which are nothing but objects with the same between them, what each of them is."""
    return data.removeprefix(b"data: ").removesuffix(_DONE).replace(b"\n\ndata: ", b"\n").rstrip(b"\n").split(b"\n")


def _texts(data: bytes) -> list[bytes]:
    return [text for line in data.split(b"\n") if (text := _json_in(line))]


@functools.lru_cache(maxsize=1)
def _only_frame(body: bytes) -> Sequence[Frame]:
    """What a body says; it is asked twice in a row, for its end and for its answer."""
    found = _loaded(body)
    return (found,) if isinstance(found, dict) else ()


def _json_in(line: bytes) -> bytes:
    """A line without what streams have around their JSON."""
    if line.startswith(b"{"):
        return line
    text = line.strip().removeprefix(b"data:").removeprefix(b"error:")
    return b"" if text.startswith((b"event:", b":")) or text.endswith(b"[DONE]") else text


def _loaded(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _is_closed(endpoint: Endpoint, frames: Sequence[Frame], tail: bytes) -> bool:
    """The stream says of itself that it is over. Where the frame that tells the finish does so too, that is enough."""
    if endpoint.dialect is Dialect.ANTHROPIC:
        return any(frame.get("type") == "message_stop" for frame in frames[-2:])
    return endpoint.dialect is Dialect.OLLAMA or endpoint is _RESPONSES or says_done(tail)


def says_done(tail: bytes) -> bool:
    """Whether a stream of OpenAI's ends here."""
    return any(line.strip() == b"data: [DONE]" for line in tail.rsplit(b"\n", 4))


def _error_of(endpoint: Endpoint, frame: Frame) -> str | None:
    error = frame.get("error")
    if error is None and endpoint is _RESPONSES:
        error = responses_frames.error_of(frame)
    if isinstance(error, Mapping):
        return str(error.get("message") or error)
    return None if error is None else str(error)


def _choice(frame: Frame) -> Frame:
    choices = frame.get("choices")
    return choices[0] if isinstance(choices, Sequence) and choices else {}


def _end_of_embedding(frames: Sequence[Frame], error: str | None) -> End:
    vectors = next((frame for frame in frames if frame.keys() & {"embeddings", "embedding", "data"}), None)
    if vectors is None or error is not None:
        return End(False, error=error)
    usage = vectors.get("usage") or {}
    return End(True, "stop", tokens_told(vectors.get("prompt_eval_count") or usage.get("prompt_tokens")))


def _end_of_count(frames: Sequence[Frame], error: str | None) -> End:
    """Counting a prompt's tokens costs that prompt where the engine had to read it."""
    counted = next((frame["input_tokens"] for frame in frames if isinstance(frame.get("input_tokens"), int)), None)
    return End(False, error=error) if counted is None else End(True, "stop", tokens_told(counted))


# --- where each API keeps what ----------------------------------------------------------------------------------------


class _Reading(NamedTuple):
    """How a frame or body of one API is read."""

    part_of: Callable[[Frame], Frame]  # where it keeps its text
    finish_of: Callable[[Frame], str | None]
    counts_of: Callable[[Frame], tuple[int, int] | None]


def _ollama_part(frame: Frame) -> Frame:
    return frame.get("message") or _EMPTY


def _ollama_finish(frame: Frame) -> str | None:
    return str(frame.get("done_reason") or "stop") if frame.get("done") is True else None


def _ollama_counts(frame: Frame) -> tuple[int, int] | None:
    if frame.get("done") is not True:
        return None
    return tokens_told(frame.get("prompt_eval_count")), tokens_told(frame.get("eval_count"))


def _openai_part(frame: Frame) -> Frame:
    choice = _choice(frame)
    return choice.get("delta") or choice.get("message") or choice


def _openai_finish(frame: Frame) -> str | None:
    finish = _choice(frame).get("finish_reason")
    return finish if finish is None or isinstance(finish, str) else str(finish)


def _openai_counts(frame: Frame) -> tuple[int, int] | None:
    usage = frame.get("usage")
    if not isinstance(usage, Mapping):
        return None
    return tokens_told(usage.get("prompt_tokens")), tokens_told(usage.get("completion_tokens"))


def _itself(frame: Frame) -> Frame:
    return frame


def _reading_of(endpoint: Endpoint) -> _Reading:
    if endpoint is _RESPONSES:
        return _Reading(responses_frames.part_of, responses_frames.finish_of, responses_frames.counts_of)
    if endpoint.dialect is Dialect.ANTHROPIC:
        return _Reading(anthropic_frames.part_of, anthropic_frames.finish_of, anthropic_frames.counts_of)
    if endpoint.dialect is Dialect.OPENAI:
        return _Reading(_openai_part, _openai_finish, _openai_counts)
    return _Reading(_ollama_part if endpoint.is_chat else _itself, _ollama_finish, _ollama_counts)


_READING: Final[Mapping[Endpoint, _Reading]] = {each: _reading_of(each) for each in Endpoint}
