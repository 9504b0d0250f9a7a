"""What one scripted instance does with a call: slots, a queue of its own, one resident model, faults; no HTTP."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.gateway.jobs import Setup


@dataclass(slots=True, eq=False)
class Work:
    """One call's stay in an instance; `start` is called when it has a slot, `end` tells that it needs it no more."""

    number: int
    model: str
    work_us: int
    start: Callable[[], None]
    began_s: float = 0.0
    is_running: bool = False


@dataclass(slots=True)
class Seen:
    """What an instance counted since it was last told how to behave."""

    loads: int = 0
    most_waiting: int = 0
    works_s: dict[int, float] = field(default_factory=dict)  # by the call's number: its work as it turned out


class Engine:
    """One instance. Calls beyond its slots wait here, as they do in Ollama, in the order they came."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._loop = asyncio.get_running_loop()
        self.fault = ""
        self._running: set[Work] = set()
        self._waiting: deque[Work] = deque()
        self._is_loading = False
        self.resident = ""
        self.behave(Setup())

    def behave(self, setup: Setup) -> None:
        self.setup = setup
        self.speed = setup.speeds[self._index]
        self.seen = Seen()
        if self.resident not in setup.models:
            self.resident = setup.models[self._index % len(setup.models)]

    def take(self, work: Work) -> None:
        """Start `work` now, or when those before it leave room and its model is resident."""
        if not self._waiting and self._has_room(work):
            self._start(work)
            return
        self._waiting.append(work)
        self.seen.most_waiting = max(self.seen.most_waiting, len(self._waiting))
        self._next()

    def unload(self) -> None:
        """What `keep_alive: 0` asks for; an instance at work goes on with what it has."""
        if not self._running and not self._is_loading and len(self.setup.models) > 1:
            self.resident = ""

    def end(self, work: Work) -> None:
        """It is answered, or its caller left."""
        if work.is_running:
            self._running.discard(work)
            work.is_running = False
            if work.work_us:
                self.seen.works_s[work.number] = (time.perf_counter() - work.began_s) * self.speed
        elif work in self._waiting:
            self._waiting.remove(work)
        if self._waiting:
            self._next()

    def _has_room(self, work: Work) -> bool:
        return not self._is_loading and work.model == self.resident and len(self._running) < self.setup.slots

    def _start(self, work: Work) -> None:
        self._running.add(work)
        work.is_running = True
        if work.work_us:
            work.began_s = time.perf_counter()
        work.start()

    def _next(self) -> None:
        while self._waiting and self._has_room(self._waiting[0]):
            self._start(self._waiting.popleft())
        if self._waiting and self._waiting[0].model != self.resident and not self._running and not self._is_loading:
            self._is_loading = True
            self.seen.loads += 1
            self._loop.call_later(self.setup.load_s, self._loaded, self._waiting[0].model)

    def _loaded(self, model: str) -> None:
        self._is_loading = False
        self.resident = model
        self._next()
