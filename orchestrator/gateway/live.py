"""What a gateway works by at this moment: its rules and the cluster as last published. Both are replaced whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.faq import Faq
from orchestrator.core.model import Pool, Snapshot
from orchestrator.core.routing import RouteRule
from orchestrator.gateway.identity import Keys


@dataclass(frozen=True, slots=True)
class Tier:
    """What a role sends to: a pool, and the tier that answers when it cannot."""

    name: str
    pool: str
    backup: str | None


@dataclass(frozen=True, slots=True)
class Route:
    """A model name that callers ask for and that is not a model: the router answers."""

    name: str
    rule: RouteRule
    cache: str  # off | deterministic | all


@dataclass(frozen=True, slots=True)
class CacheRules:
    is_enabled: bool
    models: str  # off | deterministic | all
    ttl_s: int
    max_answer_bytes: int
    is_shared: bool


@dataclass(frozen=True, slots=True)
class Limits:
    queue_length: int
    queue_wait_s: float
    first_byte_s: float
    between_bytes_s: float
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings as the gateway needs them."""

    tiers: Mapping[str, Tier]
    routes: Mapping[str, Route]
    cache: CacheRules
    limits: Limits
    keys: Keys
    faq: Faq

    def tier_of_pool(self, pool: str) -> str:
        """The first tier that a pool answers for; the pool's own name where it is in none."""
        return next((tier.name for tier in self.tiers.values() if tier.pool == pool), pool)


@dataclass(slots=True)
class Live:
    """The one mutable place of a gateway: assigned to, never edited."""

    rules: Rules
    snapshot: Snapshot = field(default_factory=lambda: Snapshot(0, 0, ()))

    def pool(self, name: str) -> Pool | None:
        return self.snapshot.pool(name)
