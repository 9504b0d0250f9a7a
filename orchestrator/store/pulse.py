"""Whether this process ran all the time: one that was paused may find leases of its own long given to others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# What a process is told within this time of waking may be old news, and is asked for again.
BEAT_S, OLD_NEWS_S = 1.0, 1.0


class Pulse:
    """A beat each second. One that is late by `late_s` tells `on_woken` that the process did not run."""

    def __init__(self, late_s: float, on_woken: Callable[[], None]) -> None:
        self._late_s, self._on_woken = late_s, on_woken
        self._beating: asyncio.TimerHandle | None = None
        self._beat_s, self._woke_s = 0.0, float("-inf")  # loop time

    def start(self) -> None:
        self._beat_s = asyncio.get_running_loop().time()
        self._beat()

    def stop(self) -> None:
        if self._beating is not None:
            self._beating.cancel()

    @property
    def was_missed(self) -> bool:
        """The process was paused, and woke a moment ago."""
        now_s = asyncio.get_running_loop().time()
        return now_s - self._beat_s > BEAT_S + self._late_s or now_s - self._woke_s < OLD_NEWS_S

    def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if now_s - self._beat_s > BEAT_S + self._late_s:
            self._woke_s = now_s
            self._on_woken()
        self._beat_s = now_s
        self._beating = loop.call_later(BEAT_S, self._beat)
