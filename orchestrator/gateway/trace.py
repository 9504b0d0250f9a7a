"""What is told of a call in its answer's headers, filled in on its way."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(slots=True)
class Trace:
    """One call's story. Times are seconds of a monotonic clock."""

    request_id: str
    began_s: float
    tier: str = ""
    instance: str = ""
    cache: str = "off"
    queue_s: float = 0.0
    route_s: float = 0.0
    waited_s: float = 0.0  # for instances: neither the queue's time nor our own
    is_simulated: bool = False
    failures: int = 0  # instances that were asked and failed
    route_reasons: tuple[str, ...] = ()

    def headers(self) -> dict[str, str]:
        """The headers that say what answered, from where, and where the time went (Server-Timing, in ms)."""
        overhead_s = max(0.0, time.perf_counter() - self.began_s - self.queue_s - self.waited_s)
        parts = (("queue", self.queue_s), ("route", self.route_s), ("overhead", overhead_s))
        told = {
            "X-Request-Id": self.request_id,
            "X-Cache": self.cache,
            "Server-Timing": ", ".join(f"{name};dur={seconds * 1e3:.3f}" for name, seconds in parts),
        }
        for name, value in (("X-Tier", self.tier), ("X-Instance", self.instance)):
            if value:
                told[name] = value
        if self.is_simulated:
            told["X-Simulated"] = "true"
        return told
