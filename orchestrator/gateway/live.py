"""What a gateway works by at this moment: its rules and the cluster as last published. Both are replaced whole."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from orchestrator.core.breaker import BreakerTerms
from orchestrator.core.cache_policy import Freshness
from orchestrator.core.confidence import Calibration
from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.escalation import Watch
from orchestrator.core.faq import Faq
from orchestrator.core.matching import Match
from orchestrator.core.model import Pool, Snapshot
from orchestrator.core.privacy import Privacy
from orchestrator.core.privacy import Rules as PrivacyRules
from orchestrator.core.routing import RouteRule, tiers_to_try
from orchestrator.core.target import ENDLESS, Budget, Price, Provider
from orchestrator.gateway.grants import Issuer
from orchestrator.gateway.identity import Keys
from orchestrator.store.sealing import Seal


@dataclass(frozen=True, slots=True)
class Tier:
    """What a role sends to: a pool, or a provider's model; and the tier that answers when it cannot."""

    name: str
    pool: str  # empty: `provider` answers
    backup: str | None
    provider: Provider | None = None
    model: str = ""  # as the provider names it
    budget: Budget = ENDLESS
    price: Price | None = None  # None: it costs nothing by the token
    accepts: Privacy = Privacy.LOCAL  # the strictest class of texts that may go there; a pool's: every one

    breaker: BreakerTerms = field(default_factory=BreakerTerms)
    calibration: Calibration | None = None  # of its model's confidence; None: the one that ships

    @property
    def is_outside(self) -> bool:
        return self.provider is not None

    @property
    def is_counted(self) -> bool:
        """A budget says how much may be used of it, or its provider may."""
        return self.provider is not None or not self.budget.is_endless

    @property
    def target(self) -> str:
        """What answers, for people and for keys of answers: a pool, or a provider and its model."""
        return self.pool if self.provider is None else f"{self.provider.name}/{self.model}"


@dataclass(frozen=True, slots=True)
class Scorer:
    """A tier of the cluster's own whose model says how hard questions are, and how long it may take."""

    tier: Tier
    timeout_s: float

    @property
    def pool(self) -> str:
        return self.tier.pool


@dataclass(frozen=True, slots=True)
class Route:
    """A model name that callers ask for and that is not a model: the router answers."""

    name: str
    rule: RouteRule
    cache: str  # off | deterministic | all
    is_shared: bool = False  # its answers between API keys
    freshness: Freshness | None = None  # None: as all answers
    has_paraphrases: bool = False  # its answers are given to questions in other words, too
    has_spellings: bool = False  # a plain question is the same however it is typed
    privacy: Privacy | None = None  # class of its calls, if they are of no stricter one
    match: Match | None = None  # calls that take it though they ask for another name
    unsure_rpm: int = 60  # questions a minute of one API key that go up for doubt alone
    escalate_to: str = ""  # tier that answers where another one's answer is doubted
    watch: Watch | None = None  # what an answer is doubted for
    scorer: Scorer | None = None  # None: the trained weights say how hard a question is


@dataclass(frozen=True, slots=True)
class CacheRules:
    is_enabled: bool
    models: str  # off | deterministic | all
    freshness: Freshness
    max_answer_bytes: int
    is_shared: bool
    max_bytes: int = 256 * 2**20
    keeps_tool_calls: bool = False
    warn_after: int = 0
    has_paraphrases: bool = True  # of curated questions
    near_bytes: int = 0  # of answers in each worker's own memory
    joins: bool = True  # identical calls under way share one answer
    seal: Seal = field(default_factory=Seal)
    secret: bytes = field(default=b"", repr=False)  # what keys are made with; empty: the state folder's own


@dataclass(frozen=True, slots=True)
class Limits:
    queue_length: int
    queue_wait_s: float
    first_byte_s: float
    between_bytes_s: float
    drain_s: float
    body_bytes: int
    hang_s: float = 0.0  # 0: however long an instance is silent, its calls stay
    body_s: float = 300.0  # for a whole body
    whole_s: float = 3600.0  # for a whole call
    answer_tokens: int | None = None  # None: as many as the pool's context, where a call asks for more
    images: int = 32  # in one call
    connections_per_address: int = 0  # to one worker; 0: no limit
    fronts: tuple[str, ...] = ()  # proxies' addresses, which that is not for
    continues: bool = True  # a stream whose instance is lost goes on at another one


@dataclass(frozen=True, slots=True)
class TraceRules:
    """Where OpenTelemetry's spans of calls are sent to, and of which part of them."""

    url: str
    share: float
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # what opens it


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings as the gateway needs them."""

    tiers: Mapping[str, Tier]
    routes: Mapping[str, Route]
    cache: CacheRules
    limits: Limits
    keys: Keys
    faq: Faq
    keeps_records: bool = True  # of each call, in the request log
    traces: TraceRules | None = None  # None: no call is traced
    privacy: PrivacyRules = field(default_factory=PrivacyRules)
    backups: Mapping[str, str | None] = field(default_factory=dict)  # of tiers
    matches: tuple[tuple[str, Match], ...] = ()  # of routes, in the order in which they are tried
    budgets: Mapping[str, Budget] = field(default_factory=dict)  # by scope: of tiers, accounts and API keys
    issuers: Mapping[str, Issuer] = field(default_factory=dict)  # whose tokens are taken, by their addresses
    # As `tier_of_pool` has found them: asked once a call.
    _tiers_of_pools: dict[str, Tier] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def login(self) -> Issuer | None:
        """With whom people log in to the page."""
        return next((each for each in self.issuers.values() if each.login is not None), None)

    def freshness_of(self, name: str) -> Freshness:
        """How long answers of a pool or route are given."""
        route = self.routes.get(name)
        return self.cache.freshness if route is None or route.freshness is None else route.freshness

    def shares(self, name: str) -> bool:
        """Whether an answer of a pool or route that was made for one API key may be given to another."""
        return self.cache.is_shared or (name in self.routes and self.routes[name].is_shared)

    def answers_in_other_words(self, name: str) -> bool:
        """Whether an answer of this route may be given to a question that means the same."""
        return name in self.routes and self.routes[name].has_paraphrases

    def takes_spellings_as_one(self, name: str) -> bool:
        """Whether a plain question asked of this route is the same however it is typed."""
        return name in self.routes and self.routes[name].has_spellings

    def pools_of(self, name: str) -> tuple[str, ...]:
        """The pools, and models of providers, that may answer what is asked under this name."""
        route = self.routes.get(name)
        if route is None:
            return (name,)
        return tuple(self.tiers[each].target for each in route.rule.tiers)

    def chain(self, tier: str) -> tuple[Tier, ...]:
        """A tier, its backup, that one's backup, and so on."""
        return tuple(self.tiers[each] for each in tiers_to_try(tier, self.backups))

    def tier_of_pool(self, pool: str) -> Tier:
        """The first tier that a pool answers for, or one of the pool's own name, without a backup: this very model
        was asked for, and costs what it costs there."""
        found = self._tiers_of_pools.get(pool)
        if found is None:
            own = next((tier for tier in self.tiers.values() if tier.pool == pool), None)
            found = Tier(pool, pool, None) if own is None else Tier(own.name, pool, None, price=own.price)
            self._tiers_of_pools[pool] = found
        return found


class Live:
    """The one mutable place of a gateway: assigned to, never edited."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._snapshot = Snapshot(0, 0, ())
        self._pools: dict[str, Pool] = {}
        self._names: dict[str, str] = {}  # pools and routes by their one spelling
        self._named_by: Rules | None = None  # the rules that these routes are of; None: other pools have come since
        self._known = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def snapshot(self) -> Snapshot:
        """The cluster as last published; version 0 before the first."""
        return self._snapshot

    @snapshot.setter
    def snapshot(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._pools = {str(each.name): each for each in snapshot.pools}
        self._named_by = None
        self._known.set()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @property
    def is_known(self) -> bool:
        """Whether a snapshot has come: before that, nobody can say which models there are."""
        return self._known.is_set()

    async def until_known(self, within_s: float) -> None:
        """Wait for the first snapshot, but no longer than that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):  # wait_for can swallow a cancellation (CPython 86296)
                await self._known.wait()

    async def until_changed(self, within_s: float) -> None:
        """Wait for the next snapshot, but no longer than that."""
        changed = self._changed
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await changed.wait()

    @property
    def pools(self) -> Iterable[str]:
        """The names of all pools."""
        return self._pools

    def pool(self, name: str) -> Pool | None:
        """The pool of this very name."""
        return self._pools.get(name)

    def model(self, name: str) -> str | None:
        """The pool or route that callers mean by `name`, whatever the spelling: "x", "X" and "x:latest" are one."""
        rules, pools = self.rules, self._pools
        if name in pools or name in rules.routes:
            return name
        if self._named_by is not rules:
            names = reversed((*rules.routes, *pools))  # of two that are spelt alike the first counts
            self._names, self._named_by = {canonical_model_name(each): each for each in names}, rules
        return self._names.get(canonical_model_name(name))
