"""Scripted Ollama instances: `python -m benchmarks.gateway.instance PORT…` serves each port until it is ended.

A call says how it is answered: `options.num_predict` frames (a stream) or words (a body), `options.top_k` ms apart.
Nothing else of it is read, so that what is measured is what stands before it.
"""

from __future__ import annotations

import asyncio
import re
import sys

import httptools
import uvloop

_FRAMES, _GAP = re.compile(rb'"num_predict":\s*(\d+)'), re.compile(rb'"top_k":\s*(\d+)')
_STREAMS = re.compile(rb'"stream":\s*true')
_HEAD = b'{"model":"bench","created_at":"2026-11-21T12:00:00.000000Z","message":{"role":"assistant","content":"'
FRAME = _HEAD + b'word "},"done":false}\n'
_END = (
    b'"},"done":true,"done_reason":"stop","total_duration":1000000,"load_duration":1000,"prompt_eval_count":26,'
    b'"prompt_eval_duration":100000,"eval_count":100,"eval_duration":800000}'
)
LAST = _HEAD + _END + b"\n"


class Instance(asyncio.Protocol):
    """One connection, one call at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def connection_lost(self, why: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, piece: bytes) -> None:
        self._body.append(piece)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        self._body.clear()
        self._parser = httptools.HttpRequestParser(self)
        frames, gap = _FRAMES.search(body), _GAP.search(body)
        assert frames is not None
        assert gap is not None
        if _STREAMS.search(body):
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
            self._transport.write(head)
            self._write(int(frames[1]), int(gap[1]) / 1000, self._loop.time())
            return
        answer = _HEAD + b"word " * int(frames[1]) + _END
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % len(answer) + answer)

    def _write(self, left: int, gap_s: float, at_s: float) -> None:
        if left == 0:
            self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(LAST), LAST))
            return
        self._transport.write(b"%x\r\n%b\r\n" % (len(FRAME), FRAME))
        self._timer = self._loop.call_at(at_s + gap_s, self._write, left - 1, gap_s, at_s + gap_s)


async def serve(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(Instance, "127.0.0.1", port)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve([int(each) for each in sys.argv[1:]]))
