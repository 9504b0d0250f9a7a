"""Clients of a cluster under load: each call is followed to its end, which is judged by what the client saw."""

from __future__ import annotations

import http.client
import json
import random
import select
import socket
import threading
import time
from dataclasses import dataclass
from enum import Enum
from typing import Any

TIMEOUT_S = 90.0


class End(Enum):
    WHOLE = "answered whole"
    CUT = "cut, and said so"
    REFUSED = "refused"
    SILENT = "ended as if it were whole, and was not"


@dataclass(frozen=True, slots=True)
class Ended:
    """One call's end. `port` is the client's own: with it the connection's other end can be found."""

    end: End
    why: str
    port: int
    instance: str
    began_s: float
    ended_s: float
    is_stream: bool

    @property
    def seconds(self) -> float:
        return self.ended_s - self.began_s

    def was_under_way(self, from_s: float, to_s: float) -> bool:
        return self.began_s <= to_s and from_s <= self.ended_s


@dataclass(frozen=True, slots=True)
class Ask:
    """One call: Ollama's API or OpenAI's, streamed or not, answered anew or perhaps from the cache."""

    is_openai: bool
    is_stream: bool
    model: str
    question: str
    tokens: int
    is_cacheable: bool

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.is_openai else "/api/chat"

    def body(self) -> dict[str, Any]:
        body = {"model": self.model, "stream": self.is_stream, "messages": [{"role": "user", "content": self.question}]}
        temperature = 0.0 if self.is_cacheable else 0.8
        if self.is_openai:
            return {**body, "max_tokens": self.tokens, "temperature": temperature}
        return {**body, "options": {"num_predict": self.tokens, "temperature": temperature}}


def any_ask(rng: random.Random, models: tuple[str, ...], number: int) -> Ask:
    is_cacheable = rng.random() < 0.3
    question = f"Tell me of thing {rng.randrange(20)}." if is_cacheable else f"Question {number} of {rng.random()}."
    return Ask(
        is_openai=rng.random() < 0.5,
        is_stream=rng.random() < 0.6,
        model=rng.choice(models),
        question=question,
        tokens=rng.randint(4, 24),
        is_cacheable=is_cacheable,
    )


class Client:
    """Asks one call after another and never asks again what failed. `keeps` its connection, or has one a call."""

    def __init__(self, host: str, port: int, rng: random.Random, models: tuple[str, ...], *, keeps: bool) -> None:
        self._rng, self._models, self._keeps = rng, models, keeps
        self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        self.ends: list[Ended] = []

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.ends.append(self._ask(any_ask(self._rng, self._models, len(self.ends))))
            stop.wait(self._rng.uniform(0.0, 1.0))
        self._connection.close()

    def _ask(self, ask: Ask) -> Ended:
        began_s, port, instance = time.monotonic(), 0, ""
        try:
            port = self._connected().getsockname()[1]
            self._connection.request("POST", ask.path, json.dumps(ask.body()))
            with self._connection.getresponse() as reply:
                instance = reply.headers.get("X-Instance", "")
                end, why = judge(ask, reply.status, reply.read().decode())
        except (http.client.HTTPException, OSError) as failure:
            end, why = End.CUT, f"{type(failure).__name__}: {failure}"
        if end is not End.WHOLE or not self._keeps:
            self._connection.close()
        return Ended(end, why, port, instance, began_s, time.monotonic(), ask.is_stream)

    def _connected(self) -> socket.socket:
        """The connection; one that was closed while nothing was asked on it is replaced, as by every client's pool."""
        kept = self._connection.sock
        if kept is not None and select.select([kept], [], [], 0)[0]:
            self._connection.close()
        if self._connection.sock is None:
            self._connection.connect()
        return self._connection.sock


def judge(ask: Ask, status: int, body: str) -> tuple[End, str]:
    """How a call ended that HTTP says has ended well: whole, with an error that a client can see, or neither."""
    if status != 200:
        return End.REFUSED, f"{status}: {body[:200]}"
    if not ask.is_stream:
        return (End.WHOLE, "") if _is_whole_document(ask, json.loads(body)) else (End.SILENT, body[-300:])
    frames = [line.removeprefix("data: ") for line in body.splitlines() if line]
    if '"error"' in frames[-1]:
        return End.CUT, frames[-1]
    if ask.is_openai:
        return (End.WHOLE, "") if frames[-1] == "[DONE]" and '"finish_reason":"' in body else (End.SILENT, body[-300:])
    return (End.WHOLE, "") if json.loads(frames[-1])["done"] is True else (End.SILENT, body[-300:])


def _is_whole_document(ask: Ask, told: dict[str, Any]) -> bool:
    if ask.is_openai:
        return told["choices"][0]["finish_reason"] in ("stop", "length") and bool(told["choices"][0]["message"])
    return told["done"] is True and bool(told["message"]["content"])
