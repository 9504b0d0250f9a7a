"""Callers' connections: a call's bytes out, the answer's in, checked: status, number, words or frames, and its end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import httptools

from benchmarks.gateway.jobs import KEY, Job

PATHS = {"ollama": "/api/chat", "openai": "/v1/chat/completions"}
_DIGITS = 16


class Question:
    """The bytes of a job's calls: all alike but for number, work and model, so most of them is made once."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._parts = {model: self._cut(model) for model in job.models}

    def of(self, index: int, number: int) -> bytes:
        """Call `index` of the job."""
        job = self._job
        head, tail = self._parts[job.models[index % len(job.models)]]
        return head + b"%09d %016d" % (job.works_us[index % len(job.works_us)], number) + tail

    def _cut(self, model: str) -> tuple[bytes, bytes]:
        job = self._job
        text = f"[[{job.frames} {job.gap_us} @]] Summarise the ticket in one sentence, please."
        text += " The printer on the second floor prints every page twice." * (job.prompt_bytes // 58)
        asked: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": text}]}
        asked["stream"] = job.is_stream
        if job.dialect == "ollama":
            asked["options"] = {"temperature": job.temperature}
        else:
            asked["temperature"] = job.temperature
        head, tail = json.dumps(asked).encode().split(b"@", 1)
        length = len(head) + len(tail) + 9 + 1 + _DIGITS
        lines = (
            f"POST {job.prefix}{PATHS[job.dialect]} HTTP/1.1",
            f"Host: 127.0.0.1\r\nAuthorization: Bearer {KEY}",
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
        )
        return "\r\n".join(lines).encode() + head, tail


class Expected:
    """What a whole answer looks like, in a job's dialect."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._is_openai = job.dialect == "openai"
        self._text = b'"content":"%016d '
        self._words = b"word " * job.frames

    def fault(self, status: int, body: bytes, number: int) -> str:
        """What is wrong with an answer that ended; empty if it is whole."""
        if status != 200:
            return f"status {status}"
        if not self._job.is_stream:
            return self._fault_of_body(body, number)
        if b'"error"' in body[-1000:]:
            return "error within a stream"
        if not self._has_end(body):
            return CUT_AS_IF_WHOLE
        frames = self.frames(body)
        if frames != self._job.frames + 1:
            return f"{frames} frames"
        return "" if (self._text % number) in body[:2000] else "another call's answer"

    def frames(self, body: bytes) -> int:
        return body.count(b"\n\n") - 1 if self._is_openai else body.count(b"\n")

    def _fault_of_body(self, body: bytes, number: int) -> str:
        compact = body.replace(b'": "', b'":"') if self._is_openai else body
        if (self._text % number) + self._words not in compact:
            return "another answer than the call's"
        end = b'"stop"' if self._is_openai else b'"done":true'
        return "" if end in body else "no end in the answer"

    def _has_end(self, body: bytes) -> bool:
        return (b"data: [DONE]" if self._is_openai else b'"done":true') in body[-1200:]


# A stream that ended with its last chunk, as whole ones do, although the instance had broken it off.
CUT_AS_IF_WHOLE = "cut, but ended as if whole"
CUT, SILENT, REFUSED = "cut off", "no whole answer in time", "no connection"

Done = Callable[["Caller", str], None]


class Caller(asyncio.Protocol):
    """One kept-alive connection; `done` is told at the end of each call what was wrong with it, or nothing."""

    def __init__(self, expected: Expected, done: Done) -> None:
        self._expected, self._done = expected, done
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._pieces: list[bytes] = []
        self._is_asking = False
        self.is_open = False
        self.number = self.index = 0
        self.began_s = self.first_s = 0.0
        self.frames = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.is_open = True

    def connection_lost(self, why: Exception | None) -> None:
        self.is_open = False
        self._end(CUT)

    def ask(self, question: bytes, index: int, number: int, began_s: float) -> None:
        self.index, self.number, self.began_s, self.first_s = index, number, began_s, 0.0
        self._pieces.clear()
        self._is_asking = True
        self.transport.write(question)

    def give_up(self) -> None:
        """No whole answer in time: as a client's own time limit does."""
        if self._is_asking:
            self._abort(SILENT)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as why:
            self._abort(f"not HTTP: {why}")

    def on_body(self, piece: bytes) -> None:
        if not self.first_s:
            self.first_s = time.perf_counter()
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self.frames = self._expected.frames(body)
        if not self._parser.should_keep_alive():
            self.is_open = False
            self.transport.close()
        self._end(self._expected.fault(self._parser.get_status_code(), body, self.number))

    def _abort(self, fault: str) -> None:
        self.is_open = False
        self.transport.abort()
        self._end(fault)

    def _end(self, fault: str) -> None:
        if self._is_asking:
            self._is_asking = False
            self._done(self, fault)
