"""When an instance counts as down and as back again: hysteresis over its probes."""

from __future__ import annotations

from dataclasses import dataclass

# One missed probe moves nothing: a busy machine misses one now and then, and a move costs a model load.
MISSES_UNTIL_DOWN = 3


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes of one instance have said so far."""

    misses: int = 0
    reason: str = ""

    @property
    def is_down(self) -> bool:
        return self.misses >= MISSES_UNTIL_DOWN


def after_probe(health: Health, failure: str | None) -> Health:
    """The health after one more probe; `failure` is None where it went well."""
    if failure is None:
        return Health()
    return Health(health.misses + 1, failure)
