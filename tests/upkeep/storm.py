"""Callers who never stop: connections made anew, connections kept, and long streams; each trouble is written down.

None of them asks a second time: what a client would have to repeat is a failure here.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.cluster.running import TIMEOUT_S, until

STREAM_TOKENS = 150
# Between two questions of a caller, so that those who ask leave the machine to those who answer.
PACE_S = 0.03


class Storm:
    """`address`: host:port of the endpoint, asked for `model`."""

    def __init__(self, address: str, model: str, *, fresh: int = 2, kept: int = 2, streams: int = 2) -> None:
        self._host, _, port = address.rpartition(":")
        self._port, self._model = int(port), model
        self._stop = threading.Event()
        self.done: Counter[str] = Counter()
        self.failed: list[str] = []
        work = [self._fresh] * fresh + [self._kept] * kept + [self._stream] * streams
        self._threads = [threading.Thread(target=self._again, args=(each,)) for each in work]

    @contextmanager
    def raging(self) -> Iterator[None]:
        """From the first answers of each kind to the next ones of each kind after the block."""
        for each in self._threads:
            each.start()
        try:
            self.until_more()
            yield
            self.until_more()
        finally:
            self._stop.set()
            for each in self._threads:
                each.join()

    def until_more(self) -> None:
        """Wait until some callers of each kind were answered once more."""
        before = self.done.copy()
        kinds = ("fresh", "kept", "stream")
        until(lambda: self.failed or all(self.done[each] > before[each] for each in kinds), "all kinds are answered")

    def _again(self, work: Callable[[], None]) -> None:
        while not self._stop.wait(PACE_S):
            try:
                work()
            except (OSError, http.client.HTTPException, AssertionError, ValueError) as why:
                self.failed.append(f"{work.__name__}: {why!r}")

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)

    def _fresh(self) -> None:
        """One question on a connection of its own."""
        connection = self._connection()
        try:
            connection.request("GET", "/api/version", headers={"Connection": "close"})
            reply = connection.getresponse()
            assert reply.status == 200, reply.status
            assert reply.read()
        finally:
            connection.close()
        self.done["fresh"] += 1

    def _kept(self) -> None:
        """Questions on one connection for as long as the other end does not say that it ends."""
        connection = self._connection()
        try:
            while not self._stop.wait(PACE_S):
                connection.request("GET", "/api/version")
                reply = connection.getresponse()
                assert reply.status == 200, reply.status
                assert reply.read()
                self.done["kept"] += 1
                if reply.getheader("Connection", "").lower() == "close":
                    self.done["told to come again"] += 1
                    return
        finally:
            connection.close()

    def _stream(self) -> None:
        """A long answer, whole to its last token; then, on the same connection, a short question."""
        connection = self._connection()
        asked = {"model": self._model, "messages": [{"role": "user", "content": f"tell {self.done['stream']}"}]}
        asked |= {"options": {"num_predict": STREAM_TOKENS}}
        try:
            connection.request("POST", "/api/chat", json.dumps(asked), {"Cache-Control": "no-store"})
            reply = connection.getresponse()
            assert reply.status == 200, reply.read()
            frames: list[dict[str, Any]] = [json.loads(line) for line in reply.read().splitlines()]
            assert frames[-1].get("done") is True, frames[-1]
            assert frames[-1]["eval_count"] == STREAM_TOKENS, frames[-1]
            if reply.getheader("Connection", "").lower() != "close":
                connection.request("GET", "/api/version")
                assert connection.getresponse().status == 200
        finally:
            connection.close()
        self.done["stream"] += 1
