"""What was deployed: the placements that somebody looked at and agreed to, which the controller then keeps.

On hosts that are reached over SSH nothing moves because a file was edited: `ollamactl deploy` shows the difference,
and what it is told to apply becomes the next deployment. Its number grows by one each time; hosts refuse who comes
with an older one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.model import ModelShape, Placement


@dataclass(frozen=True, slots=True)
class Deployment:
    """`terms`: by pool, what its instances are started with beyond their placement; `shapes`: each pool's model."""

    number: int
    made_at_unix_ms: int
    made_by: str  # who ran `deploy`, on which host
    placements: tuple[Placement, ...]
    shapes: Mapping[str, ModelShape] = field(default_factory=dict)
    terms: Mapping[str, str] = field(default_factory=dict)
    is_good: bool = False  # every instance of it has served: `rollback` may come back to it
