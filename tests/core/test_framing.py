"""What is a frame passes, however a stream is cut; what is none never does, nor anything behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.dialects import framing
from orchestrator.core.dialects.errors import error_frame
from orchestrator.core.dialects.frames import Stats, head_of
from orchestrator.core.dialects.framing import Forms, Frames
from orchestrator.core.dialects.streams import open_stream
from orchestrator.core.model import Call, Dialect, Endpoint
from tests.core.dialects_recordings import Recorded, recordings

NOW = datetime(2026, 11, 21, 12, 0, 0, 5, UTC)
STREAMED = tuple(each for each in Endpoint if each.is_answered_in_words)
RECORDED = [each for version in ("", "v0.24.0") for each in recordings(version) if each.is_stream]
# Words as models say them, and what must be written otherwise in JSON than it is.
SAID = st.sampled_from([" word", "ğüş", " 😀", '"', "\\", "\n", "{", "}]", "", "data: "])
WORDS = st.lists(SAID | st.text(max_size=9))
CUTS = st.lists(st.integers(1, 80), min_size=1, max_size=9)


def told_by(endpoint: Endpoint, words: Sequence[str]) -> list[bytes]:
    """The frames of an answer."""
    stream = open_stream(head_of(Call(endpoint, "m", True, {"model": "m"}), "m", NOW))
    said = [frame for word in words for frame in stream.content(NOW, text=word)]
    return [*said, *stream.end(NOW, "stop", Stats(total_ns=9, prompt_tokens=7))]


def frames_for(endpoint: Endpoint, forms: Forms | None = None) -> Frames:
    return Frames(forms or Forms(), is_events=endpoint.dialect is not Dialect.OLLAMA)


def cut(data: bytes, sizes: Sequence[int], at_once: int) -> Iterator[list[bytes]]:
    """Reads of so many pieces, cut to these sizes again and again."""
    pieces, at, n = [], 0, 0
    while at < len(data):
        size = sizes[n % len(sizes)]
        pieces.append(data[at : at + size])
        at, n = at + size, n + 1
    yield from (pieces[start : start + at_once] for start in range(0, len(pieces), at_once))


def passed(frames: Frames, reads: Iterator[list[bytes]] | Sequence[list[bytes]]) -> bytes:
    """All that comes out; nothing is told any more to one that has found a fault."""
    out = b""
    for pieces in reads:
        out += b"".join(frames.feed(pieces))
        if frames.fault:
            return out
    return out + b"".join(frames.finish())


# --- what is a frame --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda each: each.name)
@given(sizes=CUTS, at_once=st.integers(1, 5), data=st.data())
def test_what_a_real_ollama_streamed_passes_as_it_came_however_it_is_cut(recorded: Recorded, sizes, at_once, data):
    forms = Forms()
    body = b"".join(recorded.chunks or (recorded.body,))
    for reads in (cut(body, sizes, at_once), [list(recorded.chunks or (recorded.body,))], [[body]]):
        frames = frames_for(recorded.endpoint, data.draw(st.sampled_from([forms, Forms()])))
        assert passed(frames, reads) == body, frames.fault
        assert not frames.fault


@pytest.mark.parametrize("endpoint", STREAMED)
@given(words=WORDS, sizes=CUTS, at_once=st.integers(1, 40))
def test_whatever_is_said_passes_however_it_is_cut(endpoint: Endpoint, words, sizes, at_once):
    forms, told = Forms(), told_by(endpoint, words)
    for reads in (cut(b"".join(told), sizes, at_once), [told[n : n + at_once] for n in range(0, len(told), at_once)]):
        frames = frames_for(endpoint, forms)
        assert passed(frames, reads) == b"".join(told), frames.fault


@pytest.mark.parametrize("endpoint", STREAMED)
def test_what_was_cut_leaves_as_whole_frames(endpoint: Endpoint):
    told = told_by(endpoint, ["one", " two", " three"])
    frames = frames_for(endpoint)
    out = [each for reads in cut(b"".join(told), [7], 1) for each in frames.feed(reads)]
    end = b"\n" if endpoint.dialect is Dialect.OLLAMA else b"\n\n"
    assert out == [each + end for each in b"".join(told).split(end)[:-1]]


def test_frames_that_came_in_one_piece_leave_in_one_but_for_an_error():
    told = told_by(Endpoint.OLLAMA_CHAT, ["one", " two"])[:2]
    error = error_frame(Endpoint.OLLAMA_CHAT, "the runner is gone")
    assert frames_for(Endpoint.OLLAMA_CHAT).feed([b"".join(told)]) == [b"".join(told)]
    assert frames_for(Endpoint.OLLAMA_CHAT).feed([b"".join([*told, error])]) == [b"".join(told), error]


@pytest.mark.parametrize(
    "stream",
    [
        b': OPENROUTER\n\ndata: {"a":1}\n\ndata: [DONE]\n\n',
        b'event: ping\r\nid: 7\r\ndata: {"a":1}\r\n\r\nretry: 5\r\n\r\ndata:[DONE]\r\n\r\n',
        b'data: {"a":\ndata: 1}\n\n',
        b'error: {"code":500,"message":"loading"}\n\n',
        b'data: {"a":1}\n\ndata: [DONE]',
        b'data: {"a":1}\n\ndata: [DONE]\n',
    ],
)
def test_events_are_read_as_their_standard_has_them(stream: bytes):
    for size in (1, 5, 99):
        frames = Frames(Forms(), is_events=True)
        assert passed(frames, cut(stream, [size], 1)) == stream
        assert not frames.fault


def test_lines_without_a_word_are_left_out():
    assert passed(Frames(Forms(), is_events=False), [[b'\n{"a":1}\n', b"\n \n", b'{"a":2}']]) == b'{"a":1}\n{"a":2}'


# --- what is none -----------------------------------------------------------------------------------------------------

OLLAMA = b'{"model":"m","message":{"role":"assistant","content":" two"},"done":false}\n'
GARBLED_LINES = {
    "cut": OLLAMA[:40] + b"\n",
    "glued": OLLAMA[:40] + OLLAMA,
    "without its beginning": OLLAMA[20:],
    "without its first letter": OLLAMA[1:],
    "without its last": OLLAMA.replace(b"}\n", b"\n"),
    "with a word before it": b"oops " + OLLAMA,
    "with a word behind it": OLLAMA[:-1] + b" oops\n",
    "a bare quotation mark": OLLAMA.replace(b" two", b' t"wo'),
    "two bare quotation marks": OLLAMA.replace(b" two", b' "two"'),
    "a bracket more": OLLAMA.replace(b"},", b"},{"),
    "a bare line's end": OLLAMA.replace(b" two", b" t\nwo"),
    "a NUL": OLLAMA.replace(b" two", b" t\0wo"),
    "zeros": bytes(80) + b"\n",
    "no UTF-8": OLLAMA.replace(b" two", b" t\xc3wo"),
    "words": b"upstream request timeout\n",
    "a page": b"<html>\n<body>502</body></html>\n",
    "a list": b'["m"]\n',
    "a text": b'"m"\n',
    "an event": b"data: " + OLLAMA,
}
GARBLED_EVENTS = {
    **{name: b"data: " + line + b"\n" for name, line in GARBLED_LINES.items() if name != "an event"},
    "a bare line": OLLAMA + b"\n",
    "a line more": b"data: " + OLLAMA + b"oops\n\n",
    "an unknown field": b"dat: " + OLLAMA + b"\n",
    "not quite done": b"data: [DON]\n\n",
}


@pytest.mark.parametrize("is_cached", [False, True], ids=["new", "after others"])
@pytest.mark.parametrize(
    ("is_events", "wrong"),
    [
        *(pytest.param(False, each, id=f"line: {name}") for name, each in GARBLED_LINES.items()),
        *(pytest.param(True, each, id=f"event: {name}") for name, each in GARBLED_EVENTS.items()),
    ],
)
def test_what_is_no_frame_never_passes_nor_what_comes_behind_it(is_events: bool, wrong: bytes, is_cached: bool):
    good = b"data: " + OLLAMA + b"\n" if is_events else OLLAMA
    forms = Forms()
    if is_cached:  # what was in texts before is no reason to take it for a mark of a frame
        said = [good.replace(b" two", each) for each in (b"two", b'\\"', b"{", b"\\n", b"[]", b"", b"\\\\", b'\\"{\\"')]
        said += [b'data: {"model":"m","message":\ndata: {},"done":false}\n\n'] if is_events else []
        assert passed(Frames(forms, is_events=is_events), [said, [good, good]]) == b"".join([*said, good, good])
    for before in (0, 1, 2, 9):
        told = [good] * before + [wrong] + [good] * 3
        whole = b"".join(told)
        for reads in ([told], [[each] for each in told], [[whole]], *(cut(whole, [size], 4) for size in (1, 7, 50))):
            frames = Frames(forms, is_events=is_events)
            assert passed(frames, reads) == good * before
            assert frames.fault


@pytest.mark.parametrize("endpoint", STREAMED)
@given(words=WORDS.filter(bool), data=st.data())
def test_a_stream_that_ends_within_a_frame_says_so_and_keeps_it_back(endpoint: Endpoint, words, data):
    whole = b"".join(told_by(endpoint, words))
    end = b"\n" if endpoint.dialect is Dialect.OLLAMA else b"\n\n"
    at = data.draw(st.integers(1, len(whole) - 1))
    out = passed(frames := frames_for(endpoint), [[whole[:at]]])
    assert whole.startswith(out)
    is_at_end = whole[:at].endswith(end) or out == whole[:at]
    assert bool(frames.fault) is not is_at_end, (out, whole[:at])


def test_a_frame_without_an_end_is_given_up_once_it_is_longer_than_any(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(framing, "LONGEST", 2**20)
    for is_events in (False, True):
        frames, piece, fed = Frames(Forms(), is_events=is_events), b"x" * 8192, 0
        while not frames.fault and fed < 2 * framing.LONGEST:
            assert frames.feed([piece]) == []
            fed += len(piece)
        assert "more than 1 MiB" in frames.fault
        assert fed <= framing.LONGEST + len(piece)


def test_forms_are_forgotten_before_they_are_too_many():
    forms = Forms()
    for n in range(1, 3 * framing.FORMS_AT_MOST):
        line = b'{"a":%b}\n' % (b"[" * n + b"]" * n)
        assert passed(Frames(forms, is_events=False), [[line]]) == line
    assert len(forms) <= framing.FORMS_AT_MOST


def test_a_long_beginning_is_nothing_to_remember():
    forms = Forms()
    event = b"event: %b\ndata: {}\n\n" % (b"x" * 2 * framing.LONGEST_FORM)
    assert passed(Frames(forms, is_events=True), [[event]]) == event
    assert len(forms) == 0


def test_an_event_that_is_not_over_behind_a_word_for_nobody_is_cut_short():
    frames = Frames(Forms(), is_events=True)
    frames.feed([b": ping\ndata: {"])
    frames.finish()
    assert frames.fault
