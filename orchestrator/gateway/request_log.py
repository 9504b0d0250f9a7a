"""The request log as a gateway writes it: one record a call, gathered in memory and written once a second.

A call pays for a tuple; lines and files are made by a thread. What cannot be written is counted and said, and calls go
on: a log is no reason to refuse anybody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

from orchestrator import telemetry
from orchestrator.gateway.request import Request
from orchestrator.gateway.trace import Trace

log = logging.getLogger(__name__)

WRITE_EVERY_S: Final = 1.0
LONGEST_NAME: Final = 120
# Of records that wait for a disk that takes none.
WAITING_AT_MOST: Final = 100_000

# The fields of a `CallRecord` by their names.
Record = dict[str, object]


class RequestLog:
    """`folder`: where its files go; `writer` makes their names differ from the other workers'."""

    def __init__(self, folder: Path, writer: str, is_on: Callable[[], bool]) -> None:
        self._folder, self._writer, self._is_on = folder, f"{writer}-{os.getpid()}", is_on
        self._waiting: list[Record] = []
        self._writing: asyncio.Task[None] | None = None
        self._problem = ""

    def start(self) -> None:
        self._writing = asyncio.get_running_loop().create_task(self._write_on())

    async def close(self) -> None:
        """Write what is left."""
        if self._writing is not None:
            self._writing.cancel()
            with suppress(asyncio.CancelledError):
                await self._writing
        await self.flush()

    def add(self, request: Request, trace: Trace, status: int) -> None:
        """A call has ended."""
        if self._is_on():
            self._waiting.append(_record(request, trace, status))

    async def flush(self) -> None:
        """Write what was added."""
        records, self._waiting = self._waiting, []
        if not records:
            return
        try:
            await asyncio.to_thread(self._write, records)
        except (OSError, RuntimeError) as why:  # the latter where the machine has no thread to spare
            self._waiting = records[-WAITING_AT_MOST:] + self._waiting
            lost = max(0, len(records) - WAITING_AT_MOST)
            telemetry.TALLY.count(telemetry.LOG_LOST, (), lost)
            self._say(f"the request log cannot be written, calls go on: {why}")
        else:
            self._say("")

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self.flush()

    def _write(self, records: Sequence[Record]) -> None:
        hour = datetime.now(UTC).strftime("%Y-%m-%d/%H")
        path = self._folder / f"{hour}-{self._writer}.jsonl"
        for folder in (self._folder, path.parent):  # each private: a parent that mkdir makes on the way would not be
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Added up one by one: thousands of lines kept for `join` are memory asked of the system anew each second, which
        # costs ten times what making them does.
        lines = bytearray()
        for each in records:
            lines += orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab", buffering=0) as out:
            before = out.tell()
            try:
                if (written := out.write(lines)) != len(lines):
                    raise OSError(f"{path}: {written} of {len(lines)} bytes were taken")
            except OSError:
                out.truncate(before)  # half a line would spoil the next one
                raise

    def _say(self, problem: str) -> None:
        if problem and not self._problem:
            log.error("%s", problem)
        elif self._problem and not problem:
            log.info("the request log is written again")
        self._problem = problem


def _record(request: Request, trace: Trace, status: int) -> Record:
    """A `CallRecord` in the form in which it is written."""
    total_s, caller = time.perf_counter() - trace.began_s, trace.caller
    prompt, completion = trace.tokens
    return {
        "at_ms": round((time.time() - total_s) * 1e3),
        "id": trace.request_id,
        "caller": caller.name,
        "agent": _name(request.header(b"user-agent")),
        "session": _name(request.header(b"x-session-id")),
        "path": request.path,
        "model": _name(trace.model),
        "tier": trace.tier,
        "instance": trace.instance,
        "cache": trace.cache,
        "why": trace.cache_why,
        "outcome": trace.outcome,
        "status": status,
        "stream": trace.is_stream,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "reasoning_tokens": trace.reasoning_tokens,
        "cached_tokens": trace.cached_tokens,
        "queue_ms": _ms(trace.queue_s),
        "wait_ms": _ms(trace.waited_s),
        "overhead_ms": _ms(trace.overhead_s),
        "first_byte_ms": _ms(trace.first_byte_s),
        "total_ms": _ms(total_s),
        "failures": trace.failures,
        "escalated": trace.escalated,
        "usd": trace.usd,
        "simulated": trace.is_simulated,
        "continued": trace.continued,
        "tenant": caller.tenant,
    }


def _name(given: str) -> str:
    """What a caller said of itself, fit for a line of UTF-8 and for a terminal: it gives that no orders."""
    if not given:
        return ""
    told = given[:LONGEST_NAME]
    return told if told.isprintable() else "".join(each if each.isprintable() else "?" for each in told)


def _ms(seconds: float) -> float:
    """To the microsecond, of what is not negative; `round` with digits costs three times as much."""
    return int(seconds * 1e6 + 0.5) / 1e3
