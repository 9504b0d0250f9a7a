"""A stream that broke off: read back as far as it was shown, and its rest told as if it had not broken.

Bytes of the first engine in, what they said out; then bytes of another engine that was asked to go on, and out come the
frames that belong behind those that were shown: the same name and time, no second beginning, counts of both together.
Whether a stream may go on, and what is asked for it, is decided in `core.continuing`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

import orjson

from orchestrator.core.dialects.frames import Stats, head_of
from orchestrator.core.dialects.outcome import Told, read_frames, says_done
from orchestrator.core.dialects.streams import open_stream
from orchestrator.core.errors import CallerError, InstanceError
from orchestrator.core.model import Call, Dialect, Endpoint, Finish

# Ollama cuts a model that says the same so often in a row (OLLAMA.md 1.4): another instance's would, too.
REPEATS: Final = 30

_EVENT_END: Final = b"\n\n"
_LITERALS: Final = (b"true", b"false", b"null")
_HALF_ESCAPE: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\(?:u[0-9a-fA-F]{0,3})?\Z")
_HALF_PAIR: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}\Z")


class SoFar(NamedTuple):
    """What a client has been shown of an answer. `tokens`: as many as frames said something; engines tell one each."""

    text: str
    tokens: int
    beside: str  # what there was beside words: thinking, tools, its end or an error; '': nothing
    repeats: bool
    model: str
    answer_id: str
    created: int
    is_begun: bool  # a frame was shown, perhaps without a word
    has_block: bool  # of Anthropic's: the block that the words stand in was opened


def read_so_far(endpoint: Endpoint, shown: bytes) -> SoFar:
    """All whole frames of a stream as far as it went."""
    frames = read_frames(endpoint, shown)
    said = [each.text for each in frames if each.text]
    last = {each.strip() for each in islice(reversed(said), REPEATS)}
    names = frames[0].frame if frames else {}
    return SoFar(
        text="".join(said),
        tokens=len(said),
        beside=next(filter(None, map(_beside_words, frames)), ""),
        repeats=len(said) >= REPEATS and len(last) == 1,
        model=str(names.get("model") or ""),
        answer_id=str(names.get("id") or ""),
        created=names["created"] if isinstance(names.get("created"), int) else 0,
        is_begun=bool(frames),
        has_block=b"content_block_start" in shown,
    )


def _beside_words(told: Told) -> str:
    if told.error is not None:
        return "error"
    if told.finish is not None or told.frame.get("type") == "content_block_stop":
        return "ended"
    if told.calls:
        return "tools"
    return "thinking" if told.thinking else ""


def closing(endpoint: Endpoint, shown: bytes) -> bytes | None:
    """What makes a whole frame of one that was cut; empty where none was.

    None: it cannot be made whole without saying what the engine did not say.
    """
    if endpoint.dialect is Dialect.OLLAMA:
        cut = shown[shown.rfind(b"\n") + 1 :]
        if not cut:
            return b""
        rest = _rest_of_json(cut)
        return None if rest is None else rest + b"\n"
    at = shown.rfind(_EVENT_END)
    cut = shown if at < 0 else shown[at + len(_EVENT_END) :]
    if not cut:
        return b""
    line = cut[cut.rfind(b"\n") + 1 :]
    if not line:  # of the event only its blank line is missing
        return b"\n"
    if not line.startswith(b"data: {"):
        return None
    rest = _rest_of_json(line.removeprefix(b"data: "))
    return None if rest is None else rest + _EVENT_END


def _rest_of_json(cut: bytes) -> bytes | None:
    """The shortest end that makes an object of one that was cut anywhere, adding no word to a text."""
    ends, is_text = _open_ends(cut)
    if is_text:
        try:
            cut.decode()
        except UnicodeDecodeError:
            return None
        if _HALF_ESCAPE.search(cut) or _HALF_PAIR.search(cut):
            return None
        tries = [b'"', b'":null']
    else:
        half = [each[n:] for each in _LITERALS for n in range(len(each) - 1, 0, -1) if cut.endswith(each[:n])]
        tries = [b"", *half, b"null", b":null", b'"":null']
    for each in tries:
        try:
            orjson.loads(cut + each + ends)
        except orjson.JSONDecodeError:
            continue
        return each + ends
    return None


def _open_ends(cut: bytes) -> tuple[bytes, bool]:
    """What closes the objects and lists that are open, and whether the cut is within a text."""
    ends: list[int] = []
    is_text = is_escaped = False
    for each in cut:
        if is_text:
            is_text = is_escaped or each != 0x22
            is_escaped = not is_escaped and each == 0x5C
        elif each == 0x22:
            is_text = True
        elif each in b"{[":
            ends.append(each + 2)  # } stands two behind {, ] two behind [
        elif each in b"}]" and ends:
            ends.pop()
    return bytes(reversed(ends)), is_text


class Inner(Protocol):
    """From an engine's bytes to the frames of the dialect it was asked in."""

    def feed(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...
    def error(self, status: int, body: bytes) -> CallerError | bytes | None: ...


class Rest:
    """The rest of an answer on its way to who was shown `before`.

    `call`: as its caller asked it; `asked`: the API in which the second engine was, whose bytes `inner` may have to
    translate first. `took_ns`: what the first part took to be told. `is_full`: no more tokens were allowed, and the
    engine was asked for its counts alone.
    """

    def __init__(
        self,
        call: Call,
        asked: Endpoint,
        before: SoFar,
        clock: Callable[[], datetime],
        inner: Inner | None = None,
        *,
        took_ns: int = 0,
        is_full: bool = False,
    ) -> None:
        self._asked, self._before, self._clock, self._inner = asked, before, clock, inner
        self._took_ns, self._is_full = took_ns, is_full
        self._end = b"\n" if asked.dialect is Dialect.OLLAMA else _EVENT_END
        self._bytes = b""
        self._finish: str | None = None
        self._counts = (0, 0)
        self._last: Mapping[str, Any] = {}
        self._is_over = False
        began = datetime.fromtimestamp(before.created, UTC) if before.created else clock()
        self._stream = open_stream(head_of(call, before.model, began, _number(before.answer_id)))
        if before.is_begun:  # what a beginning is told with is told no more
            self._stream.content(began, text=before.text[:1] or ("-" if before.has_block else ""))

    def feed(self, data: bytes) -> bytes:
        """The engine's next bytes, cut anywhere; the caller's next ones. Raises InstanceError where it fails."""
        return self._told(data if self._inner is None else self._inner.feed(data))

    def finish(self) -> bytes:
        """The engine's answer is over; one without an end has none here either."""
        return b"" if self._inner is None else self._told(self._inner.finish())

    def error(self, status: int, body: bytes) -> CallerError | bytes | None:
        """Whatever is refused, the caller is in the middle of an answer: it is no mistake of the caller's."""
        return None

    def _told(self, data: bytes) -> bytes:
        self._bytes += data
        end = self._bytes.rfind(self._end) + len(self._end)
        if end < len(self._end) or self._is_over:
            return b""
        whole, self._bytes = self._bytes[:end], self._bytes[end:]
        out = b"".join([self._frame(each) for each in read_frames(self._asked, whole)])
        return out + self._ended() if self._is_at_end(whole) else out

    def _frame(self, told: Told) -> bytes:
        if told.error is not None:
            raise InstanceError("", "", quoted=told.error)
        if told.thinking or told.calls:
            raise InstanceError("", "it went on otherwise than the answer had begun")
        self._counts = told.counts or self._counts
        self._finish = told.finish or self._finish
        self._last = told.frame if told.finish else self._last
        if not told.text or self._is_full:
            return b""
        return b"".join(self._stream.content(self._clock(), text=told.text))

    def _is_at_end(self, whole: bytes) -> bool:
        if self._finish is None:
            return False
        if self._asked.dialect is Dialect.ANTHROPIC:
            return b'"message_stop"' in whole
        return self._asked.dialect is Dialect.OLLAMA or says_done(whole)

    def _ended(self) -> bytes:
        """The end of both parts. The second engine has read what the first one wrote: as prompt, and here as answer."""
        self._is_over = True
        prompt, written = self._counts
        last, before = self._last, self._before.tokens
        stats = Stats(
            total_ns=last.get("total_duration", 0) + self._took_ns,
            load_ns=last.get("load_duration", 0),
            prompt_tokens=max(0, prompt - before),
            prompt_ns=last.get("prompt_eval_duration", 0),
            completion_tokens=before if self._is_full else before + written,
            completion_ns=last.get("eval_duration", 0) + self._took_ns,
        )
        finish = Finish.LENGTH if self._is_full else self._finish or Finish.STOP
        return b"".join(self._stream.end(self._clock(), finish, stats))


def _number(answer_id: str) -> int:
    """What an id was made from, so that the same comes of it."""
    told = answer_id.rpartition("-")[2]
    return int(told) if told.isdecimal() and len(told) < 10 else zlib.crc32(answer_id.encode())
