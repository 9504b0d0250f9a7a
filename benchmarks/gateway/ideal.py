"""One ideal queue before the same instances, in virtual time: what a balancer could do that knows all but the future.

It knows which slots are free, how fast each instance is and what is resident, but not how long a call will take. It
costs nothing and hears of everything at once. Calls are taken in the order they came.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.gateway.jobs import Setup


@dataclass(frozen=True, slots=True)
class Call:
    """Call `index` of a job: when it comes, its work in seconds at speed 1, and the model it asks."""

    index: int
    at_s: float
    work_s: float
    model: str


@dataclass(slots=True)
class _Instance:
    speed: float
    free: int
    resident: str
    slots: int
    is_loading: bool = False

    @property
    def is_idle(self) -> bool:
        return self.free == self.slots and not self.is_loading


class Ideal:
    """`took_s` by call: from its coming to its end; `loads`: how often the resident model was changed."""

    def __init__(self, setup: Setup, resident: Sequence[str]) -> None:
        self.took_s: dict[int, float] = {}
        self.loads = 0
        self._setup = setup
        self._now_s = 0.0
        self._instances = [
            _Instance(speed, setup.slots, model, setup.slots)
            for speed, model in zip(setup.speeds, resident, strict=True)
        ]
        self._waiting: dict[str, deque[Call]] = {model: deque() for model in setup.models}
        self._events: list[tuple[float, int, _Instance | None, Call | str]] = []
        self._order = itertools.count()

    def open_loop(self, calls: Sequence[Call]) -> None:
        """Each call comes at its time."""
        for call in calls:
            self._at(call.at_s, None, call)
        while self._events:
            self._step()

    def closed_loop(self, calls: Sequence[Call], clients: int) -> None:
        """Clients who take the next of `calls` when theirs has ended; `at_s` is not read."""
        left = iter(calls)
        for call in itertools.islice(left, clients):
            self._at(0.0, None, call)
        while self._events:
            before = len(self.took_s)
            self._step()
            if len(self.took_s) > before and (following := next(left, None)) is not None:
                self._at(self._now_s, None, Call(following.index, self._now_s, following.work_s, following.model))

    def _at(self, when_s: float, instance: _Instance | None, what: Call | str) -> None:
        heapq.heappush(self._events, (when_s, next(self._order), instance, what))

    def _step(self) -> None:
        """The next that happens: a call comes, a call ends, or a model is loaded."""
        self._now_s, _, instance, what = heapq.heappop(self._events)
        if isinstance(what, str):
            assert instance is not None
            instance.resident, instance.is_loading = what, False
        elif instance is None:
            self._waiting[what.model].append(what)
        else:
            instance.free += 1
            self.took_s[what.index] = self._now_s - what.at_s
        self._start_what_can()

    def _start_what_can(self) -> None:
        """Oldest first, each on the fastest instance that has its model and a free slot; then loads."""
        for line in sorted(filter(None, self._waiting.values()), key=lambda line: line[0].at_s):
            while line and (instance := self._free_for(line[0].model)) is not None:
                call = line.popleft()
                instance.free -= 1
                self._at(self._now_s + call.work_s / instance.speed, instance, call)
        for model, line in self._waiting.items():
            if line:
                self._load(model, line)

    def _free_for(self, model: str) -> _Instance | None:
        free = [each for each in self._instances if each.resident == model and each.free and not each.is_loading]
        return max(free, key=lambda each: each.speed, default=None)

    def _load(self, model: str, line: deque[Call]) -> None:
        """On an idle instance, and only when the model is nowhere, or when its line outweighs a load."""
        if any(each.is_loading for each in self._instances):
            return  # one at a time: its effect is seen before the next
        has_it = sum(each.resident == model for each in self._instances)
        work_s = sum(call.work_s for call in line)
        if has_it and work_s / (has_it * self._setup.slots) < 2 * self._setup.load_s:
            return
        idle = [each for each in self._instances if each.is_idle and not self._waiting[each.resident]]
        if idle:
            chosen = max(idle, key=lambda each: sum(other.resident == each.resident for other in self._instances))
            chosen.is_loading = True
            self.loads += 1
            self._at(self._now_s + self._setup.load_s, chosen, model)
