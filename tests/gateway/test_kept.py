"""What is kept of a stream for who may have to go on with it: all of it, in little room, and no more than a bound."""

from __future__ import annotations

import pytest

from orchestrator.gateway import kept
from orchestrator.gateway.kept import DROP_AT_BYTES, PACKED_AT_MOST, Kept

FRAME = b'{"model":"m","created_at":"2026-11-21T12:00:00Z","message":{"content":" %05d"},"done":false}\n'


def told_by(stream: Kept, frames: int) -> bytes:
    pieces = [FRAME % n for n in range(frames)]
    for each in pieces:
        stream.add([each])
    return b"".join(pieces)


@pytest.mark.parametrize("plain_at_most", [0, DROP_AT_BYTES, 32 * 2**20])
def test_a_long_stream_is_told_again_to_the_letter(monkeypatch: pytest.MonkeyPatch, plain_at_most: int) -> None:
    monkeypatch.setattr(kept, "PLAIN_AT_MOST", plain_at_most)
    stream = Kept(0, packs=True)
    whole = told_by(stream, 5000)
    assert stream.told() == whole
    assert whole.endswith(stream.tail())
    assert stream.frames() == 5000


def test_what_is_left_as_it_is_is_given_back_with_its_stream() -> None:
    before = Kept.plain_in_all
    stream = Kept(0, packs=True)
    told_by(stream, 2000)
    assert Kept.plain_in_all > before
    del stream
    assert Kept.plain_in_all == before


def test_beyond_a_bound_and_where_nobody_goes_on_nothing_is_kept_but_the_end() -> None:
    frames = PACKED_AT_MOST // len(FRAME) + 2000
    for stream, count in ((Kept(0, packs=True), frames), (Kept(0), 5000)):
        whole = told_by(stream, count)
        assert stream.told() is None
        assert whole.endswith(stream.tail())
