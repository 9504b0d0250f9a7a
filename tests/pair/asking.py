"""Calls through one machine of a pair, and what the instances themselves counted of them."""

from __future__ import annotations

import http.client
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx

from tests.chaos.parts import Instance, Side
from tests.chaos.world import SMALL
from tests.cluster.running import TIMEOUT_S, TLS

_NUMBERS = itertools.count(1)


def body(*, tokens: int, is_stream: bool) -> dict[str, object]:
    """A call that the instance's journal knows by its number."""
    asked = {"role": "user", "content": f"[call {next(_NUMBERS)}] say something"}
    options = {"num_predict": tokens, "temperature": 0}
    return {"model": SMALL, "stream": is_stream, "messages": [asked], "options": options}


@contextmanager
def streaming(side: Side, tokens: int = 200) -> Iterator[Iterator[str]]:
    """An answer that has begun: the lines that are still to come."""
    asked = body(tokens=tokens, is_stream=True)
    with httpx.stream("POST", f"{side.endpoint}/api/chat", json=asked, timeout=TIMEOUT_S, verify=TLS) as reply:
        assert reply.status_code == 200, reply.read()
        lines = reply.iter_lines()
        next(lines)
        yield lines


class Asking:
    """Calls that are made at the same time, each on a connection of its own; `replies` once they have ended."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self.replies: list[httpx.Response | httpx.TransportError] = []

    def ask(self, side: Side, tokens: int = 8) -> None:
        def call() -> None:
            asked = body(tokens=tokens, is_stream=False)
            try:
                self.replies.append(httpx.post(f"{side.endpoint}/api/chat", json=asked, timeout=TIMEOUT_S, verify=TLS))
            except httpx.TransportError as why:
                self.replies.append(why)

        self._threads.append(threading.Thread(target=call))
        self._threads[-1].start()

    def end(self) -> list[httpx.Response | httpx.TransportError]:
        for each in self._threads:
            each.join(TIMEOUT_S)
        return self.replies


def has_store(side: Side) -> bool:
    """Whether it answers, and works with Redis."""
    with suppress(OSError, http.client.HTTPException):
        return bool(side.status()["store"] == "up")
    return False


def most_at_once(instance: Instance) -> int:
    """How many calls it worked on at the same time, at most."""
    steps = sorted((each["at_s"], 1 if each["event"] == "took" else -1) for each in instance.events() if "n" in each)
    return max(itertools.accumulate(step for _, step in steps), default=0)


def taken(instance: Instance) -> int:
    """Calls that have come to it."""
    return sum(each["event"] == "took" for each in instance.events())
