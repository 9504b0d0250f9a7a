"""Whole frames out of a stream's bytes, and the finding that one of them is none.

A frame is a line that holds one JSON object (Ollama's own paths), or a server-sent event whose data is one, or `[DONE]`
(everybody else's). Most are not parsed: of each read is looked at whether what is no plain text in it, quotation marks,
brackets and what does not belong into JSON at all, comes in the very order in which it came in a frame that was parsed.
What is otherwise is parsed.

So found: what is no JSON or no object, a frame that was cut or lost a part of its form, one written into another, a
text with a bare quotation mark, line's end or NUL in it, what is no UTF-8, a line that belongs to no event, a stream
that ends within a frame, a frame that has no end. Not found: what looks like a frame and is wrong inside, as other
letters in a text, a name that no client knows, a frame that is missing or comes twice; and of what was not parsed, a
mistake that leaves all marks in their order, as a number with two points or an escape that there is none of.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

from orchestrator.core.dialects.errors import ERROR_STARTS

# A frame is held until it has ended. Ollama's longest (a context, token by token; a picture) have some MB.
LONGEST: Final = 16 * 2**20
FORMS_AT_MOST: Final = 256
LONGEST_FORM: Final = 4096

# What a text is made of, as most frames have it: without it, of two frames of one kind the same is left.
_PLAIN: Final = bytes(set(range(0x20, 0x100)) - set(b'"{}[]'))
_TEXT: Final = re.compile(rb'"[^"]*"')
_EVENT_END: Final = re.compile(rb"\n\r?\n")
_FIELDS: Final = (b"data", b"event", b"id", b"retry", b"error")  # the last is llama.cpp's own, and has data, too


class Forms:
    """What frames of one API look like without their text, of those that were parsed: the same for all its streams."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: set[bytes] = set()

    def __contains__(self, look: bytes) -> bool:
        return look in self._known

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, look: bytes) -> None:
        """Should there be ever more of them, it is learnt anew which ones are usual."""
        if len(self._known) >= FORMS_AT_MOST:
            self._known.clear()
        self._known.add(look)


class Frames:
    """Bytes in, cut anywhere; the same out once they have made whole frames. `fault`: why nothing more comes out.

    `is_events`: they are server-sent ones, and not lines. `forms`: of other streams of that API, and of this one.
    """

    __slots__ = ("_end", "_form", "_forms", "_held", "_is_events", "_start", "fault")

    def __init__(self, forms: Forms, *, is_events: bool) -> None:
        self._forms, self._is_events = forms, is_events
        self._end = b"}\n\n" if is_events else b"}\n"
        self._start = self._form = b""  # of the last frame that was looked at by itself
        self._held = bytearray()  # a frame that has not ended
        self.fault = ""

    def feed(self, pieces: list[bytes]) -> list[bytes]:
        """The next of a stream; those whole frames that it ends, up to the first that is none."""
        if self._held:
            return self._looked_at(pieces)
        if len(pieces) > 1:
            return pieces if self._are_alike(pieces) else self._looked_at(pieces)
        data = pieces[0]
        is_alike = (
            data.translate(None, _PLAIN) == self._form
            and data.startswith(self._start)
            and data.endswith(self._end)
            and (data.isascii() or _is_utf8(data))
        )
        return pieces if is_alike else self._looked_at(pieces)

    def finish(self) -> list[bytes]:
        """The stream has ended as its framing says; a last frame of which only the line's end is missing."""
        rest = bytes(self._held)
        self._held.clear()
        if self.fault or not rest.strip() or (rest.startswith(b":") and b"\n" not in rest.rstrip()):
            return []
        if self._why_not(rest) or not rest.rstrip().endswith((b"}", b"[DONE]")):
            self.fault = "its stream ended within a frame"
            return []
        return [rest]

    # --- where something is not as it was ----------------------------------------------------------------------------

    def _are_alike(self, pieces: list[bytes]) -> bool:
        """Whether each of these pieces is a frame of the form that the last one had, as `feed` asks of one."""
        form = self._form
        if not form or pieces[-1].translate(None, _PLAIN) != form:  # the last may be the end, which is another
            return False
        data = b"".join(pieces)
        return (
            data.translate(None, _PLAIN) == form * len(pieces)
            and data.startswith(self._start)
            and data.endswith(self._end)
            and data.count(self._end + self._start) == len(pieces) - 1
            and (data.isascii() or _is_utf8(data))
        )

    def _looked_at(self, pieces: list[bytes]) -> list[bytes]:
        """As `feed`; as many at once as are alike, which all are but for the first and the last."""
        passed: list[bytes] = []
        at, step = 0, len(pieces) - 1
        while at < len(pieces) and not self.fault:
            some = pieces[at : at + step] if step > 1 and not self._held and self._form else pieces[at : at + 1]
            if len(some) == 1:
                self._look_at(some[0], passed)
            elif self._are_alike(some):
                passed += some
            else:
                is_but_its_end = at + len(some) == len(pieces) and some[-1].translate(None, _PLAIN) != self._form
                step = len(some) - 1 if is_but_its_end else len(some) // 2
                continue
            at += len(some)
            step = max(step * 2, 2)
        return passed

    def _look_at(self, piece: bytes, passed: list[bytes]) -> None:
        if not self._held and self._is_known(piece):
            passed.append(piece)
            return
        before = self._held[-2:]
        self._held += piece
        if _may_end(before + piece, is_events=self._is_events):
            self._take(passed)
        if len(self._held) > LONGEST:
            self.fault = f"its stream has a frame of more than {LONGEST >> 20} MiB"
        if self.fault:
            self._held.clear()

    def _take(self, passed: list[bytes]) -> None:
        """The whole frames of what is held, in one piece as they came; an error by itself: it may not be for all."""
        *frames, rest = _parted(bytes(self._held), is_events=self._is_events)
        self._held[:] = rest
        groups: list[list[bytes]] = [[]]
        for frame in frames:
            if not frame.strip():  # says nothing, and there are clients that would read it
                continue
            if not self._is_known(frame):
                self.fault = self._why_not(frame)
                if self.fault:
                    break
                self._learn(frame)
            if frame.startswith(ERROR_STARTS):
                groups += [[frame], []]
            else:
                groups[-1].append(frame)
        passed += [b"".join(each) for each in groups if each]

    def _is_known(self, frame: bytes) -> bool:
        """Whether it is of a form that was parsed before."""
        form = frame.translate(None, _PLAIN)
        start = frame[: frame.find(b"{") + 1]
        if start + form not in self._forms or not frame.endswith(self._end) or not _is_utf8(frame):
            return False
        self._start, self._form = start, form
        return True

    def _learn(self, frame: bytes) -> None:
        """Of what was parsed, what it looks like; unless its texts have marks in them, which then mean nothing."""
        start, form = frame[: frame.find(b"{") + 1], frame.translate(None, _PLAIN)
        inside = frame[len(start) : -len(self._end)]
        is_usual = frame.endswith(self._end) and len(start) + len(form) <= LONGEST_FORM and b"\n" not in inside
        if is_usual and b"\\" not in frame and _TEXT.sub(b'""', frame).translate(None, _PLAIN) == form:
            self._start, self._form = start, form
            self._forms.learn(start + form)

    def _why_not(self, frame: bytes) -> str:
        """What makes it no frame; empty: it is one."""
        if not _is_utf8(frame):
            return "its stream has bytes that are no UTF-8"
        if self._is_events:
            return _why_no_event(frame)
        return "" if is_object(frame) else "its stream has a line that is no JSON object"


def _may_end(data: bytes | bytearray, *, is_events: bool) -> bool:
    """Whether a frame ends here, so that what is held need not be looked through with each piece."""
    return b"\n" in data and (not is_events or _EVENT_END.search(data) is not None)


def _parted(data: bytes, *, is_events: bool) -> list[bytes]:
    """Frames with their ends, and what is left behind the last one."""
    if not is_events:
        *lines, rest = data.split(b"\n")
        return [*(line + b"\n" for line in lines), rest]
    parts, at = [], 0
    for end in _EVENT_END.finditer(data):
        parts.append(data[at : end.end()].lstrip(b"\r\n"))
        at = end.end()
    return [*parts, data[at:]]


def _why_no_event(event: bytes) -> str:
    data: list[bytes] = []
    for line in event.splitlines():
        name, colon, value = line.partition(b":")
        if not line.strip() or line.startswith(b":"):
            continue
        if not colon or name not in _FIELDS:
            return "its stream has a line that belongs to no event"
        if name in (b"data", b"error"):
            data.append(value.strip())
    if not data or data == [b"[DONE]"] or is_object(b"\n".join(data)):
        return ""
    return "its stream has an event that is no JSON object"


def is_object(text: bytes) -> bool:
    """Whether it is JSON, and an object."""
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
