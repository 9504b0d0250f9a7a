"""A real engine beside the played instances: a small model that writes what it will, and counts what it has written.

What it says is not known beforehand, as a played instance's is. So it is asked a few questions while nothing else is
going on, at temperature 0 with a fixed seed, and is held to its own words from then on: `heard`. Its own count is what
its /metrics tell; Ollama has none.
"""

from __future__ import annotations

import http.client
import json
import math
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from orchestrator.core.model import Engine, Footprint, InstanceId, NodeName, Placement, PoolName
from orchestrator.fleet.engines import LocalEngine, llama_cpp_unit, ollama_unit
from tests.chaos.checker_engine import Look
from tests.chaos.parts import Launch, Process
from tests.cluster.running import REAL_MODEL, TIMEOUT_S, free_port, until

SLOTS, CONTEXT, SEED = 2, 512, 7
# Few: a core writes some thirty tokens of the small model in a second.
TOKENS = 14
# With answers of parts that are all unlike: what is missing in one, or comes twice, shows.
QUESTIONS = (
    "Name the days of the week.",
    "Name the months of the year.",
    "Write: A B C D E F G H I J K L M N O P",
    "Repeat: one two three four five six seven eight nine ten",
    "Write the numbers 1 to 10.",
    "Name the planets, beginning at the sun.",
)
# Steps of one batch and of another are rounded in another way, and where two tokens are all but equally likely, either
# may come. A question counts where the next best token is never more likely than this part of the best one.
NEXT_BEST = 0.7
LEAST_QUESTIONS = 3
LOOK_EVERY_S = 0.25
_NO_SIZE = Footprint(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Heard:
    """What the engine answered undisturbed."""

    text: str
    tokens: int


def name_of(engine: LocalEngine) -> str:
    """What it is, for people."""
    if engine.kind is Engine.OLLAMA:
        return f"Ollama with {REAL_MODEL}"
    assert engine.weights is not None
    return f"llama.cpp with {engine.weights.stem}"


class RealEngine(Process):
    """One process of it, as the product starts it; an instance that somebody else runs."""

    def __init__(self, name: str, folder: Path, engine: LocalEngine, launch: Launch) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.kind, self.slots = engine.kind, SLOTS
        placed = Placement(
            InstanceId(name), PoolName(REAL_MODEL), NodeName("local"), (), SLOTS, CONTEXT, _NO_SIZE, "a trial"
        )
        if engine.kind is Engine.OLLAMA:
            unit = ollama_unit(placed, engine, self.port, "f16")
        else:
            assert engine.weights is not None
            unit = llama_cpp_unit(placed, engine.weights, self.port, is_embedding=False)
        argv = ["env", *(f"{key}={value}" for key, value in unit.env.items()), *unit.argv]
        super().__init__(name, argv, folder / name, launch)

    def start(self) -> None:
        """Begin it, with its model in memory."""
        super().start()
        self.wait_until_loaded()

    def begin(self) -> None:
        super().start()

    def wait_until_loaded(self) -> None:
        until(self._answers, f"{self.name} answers")
        self._post("/v1/chat/completions", {"messages": [{"role": "user", "content": "1"}], "max_tokens": 1})

    def _answers(self) -> bool:
        path = "/api/version" if self.kind is Engine.OLLAMA else "/health"  # 503 while the model loads
        with suppress(OSError), urllib.request.urlopen(self.url + path, timeout=5):
            return True
        return False

    def ask(self, question: str) -> Heard | None:
        """What it says, asked by nobody's leave; None where another token was nearly as likely somewhere."""
        body = {
            "messages": [{"role": "user", "content": question}],
            "max_tokens": TOKENS,
            "temperature": 0.0,
            "seed": SEED,
            "logprobs": True,
            "top_logprobs": 2,
        }
        told = self._post("/v1/chat/completions", body)
        choice = told["choices"][0]
        if any(_next_best(each) > NEXT_BEST for each in choice["logprobs"]["content"]):
            return None
        return Heard(choice["message"]["content"], told["usage"]["completion_tokens"])

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        reply = httpx.post(self.url + path, json={"model": REAL_MODEL, **body}, timeout=TIMEOUT_S)
        told: dict[str, Any] = reply.raise_for_status().json()
        return told

    def works(self) -> bool:
        """Whether it works on a call, as far as it tells."""
        seen = self.look()
        return self.kind is Engine.OLLAMA or (seen is not None and seen.working > 0)

    def look(self) -> Look | None:
        """Its own count at this moment; None where it does not tell."""
        with suppress(OSError, http.client.HTTPException):
            if self.kind is not Engine.OLLAMA and self.is_running:
                with urllib.request.urlopen(f"{self.url}/metrics", timeout=2) as reply:
                    return Look.of(reply.read().decode(), self.pid)
        return None


def _next_best(token: Mapping[str, Any]) -> float:
    """How likely the next best token was, as a part of the best one's likelihood."""
    best, *others = sorted((each["logprob"] for each in token["top_logprobs"]), reverse=True)
    return math.exp(others[0] - best) if others else 0.0


def heard(engines: Sequence[RealEngine]) -> dict[str, Heard]:
    """What they answer to each question that counts: all the same, while nobody else asks them."""
    first, *others = engines
    found = {question: told for question in QUESTIONS if (told := first.ask(question)) is not None}
    assert len(found) >= LEAST_QUESTIONS, f"{first.name} is sure of few answers: {json.dumps(list(found))}"
    for each in others:
        for question, told in found.items():
            assert each.ask(question) == told, f"{each.name} does not say what {first.name} says to {question!r}"
    return found


class Looking:
    """Looks at each engine's own count a few times a second. `looks`: by engine, in order."""

    def __init__(self, engines: Sequence[RealEngine]) -> None:
        self.looks: dict[str, list[Look]] = {each.name: [] for each in engines}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._look, args=(each,), name=each.name) for each in engines]

    @contextmanager
    def looking(self) -> Iterator[None]:
        for each in self._threads:
            each.start()
        try:
            yield
        finally:
            self._stop.set()
            for each in self._threads:
                each.join()

    def _look(self, engine: RealEngine) -> None:
        while True:
            if (seen := engine.look()) is not None:
                self.looks[engine.name].append(seen)
            if self._stop.wait(LOOK_EVERY_S):
                return
