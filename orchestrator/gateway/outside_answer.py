"""The far side of a call to a provider: its answer in the caller's dialect, its errors by who can act on them.

Knows what was sent over which connection, and no budgets, tiers' order or caches: those are `outside`'s and above.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NoReturn

from orchestrator import telemetry
from orchestrator.core.dialects.provider_answer import (
    Blame,
    OnLogprobs,
    PassedOn,
    ProviderTranslator,
    Used,
    fault_of,
)
from orchestrator.core.errors import CallerError, CapacityError, InstanceError
from orchestrator.core.limits import prompt_tokens
from orchestrator.core.model import Call, Endpoint
from orchestrator.core.target import Provider
from orchestrator.core.told import Told, told_from
from orchestrator.gateway.live import Tier
from orchestrator.gateway.outside_line import OutsideExchange
from orchestrator.gateway.upstream import Exchange

log = logging.getLogger(__name__)

# A provider that has had too much of us and does not say until when is asked again after this.
USUAL_RETRY_S: Final = 10.0
# What stands in a secret's place.
MASK: Final = b"********"
# What opens a server of one's own may be any word, which an answer may say.
SHORTEST_KEY: Final = 16


@dataclass(frozen=True, slots=True)
class There:
    """A provider's model as what is asked; its `id` is what callers and logs are told."""

    id: str
    host: str
    port: int


@dataclass(slots=True)
class Attempt:
    """One request, watched: `relay` says when it has gone out, and over what."""

    exchange: OutsideExchange | None = None

    def sent(self, exchange: Exchange) -> None:
        assert isinstance(exchange, OutsideExchange), "lines to providers have no other"
        self.exchange = exchange

    @property
    def status(self) -> int:
        """0: nothing came back yet."""
        return 0 if self.exchange is None else self.exchange.head.status

    @property
    def is_simulated(self) -> bool:
        """Another cluster of ours says of its answer that nobody has thought it."""
        return self.exchange is not None and self.exchange.headers.get("x-simulated") == "true"

    def told(self) -> Told:
        """What the answer's headers say of the provider's limits."""
        return Told() if self.exchange is None else told_from(self.exchange.headers, time.time())


@dataclass(slots=True)
class FarAnswer:
    """The provider's answer in the caller's dialect, as `relay` wants it; its errors by who can act on them."""

    call: Call
    tier: Tier
    id: str
    attempt: Attempt
    is_our_mistake: bool = False  # the operator's: the key, or the model's name
    _translation: ProviderTranslator | PassedOn = field(init=False)

    def __post_init__(self) -> None:
        if self.call.endpoint is Endpoint.OPENAI_CHAT:
            self._translation = PassedOn(self.call)
        else:
            self._translation = ProviderTranslator(self.call, self.tier.model, _now)

    def tell_logprobs(self, hear: OnLogprobs) -> None:
        """Log probabilities go to `hear` as they come, and to the caller only if they were asked for."""
        self._translation.on_logprobs = hear

    def feed(self, data: bytes) -> bytes:
        return self._without_key(self._translation.feed(data))

    def finish(self) -> bytes:
        return self._without_key(self._translation.finish())

    def error(self, status: int, body: bytes) -> CallerError | bytes | None:
        """The caller's mistake; what is nobody's but the provider's or the operator's is raised."""
        assert self.tier.provider is not None
        fault = fault_of(self.call.endpoint, status, masked(body, self.tier.provider))
        if fault.mistake is None:
            self._raise(status, fault.blame, fault.words)
        return fault.mistake

    def used(self, asked_bytes: int) -> Used:
        """Tokens as the provider counted them; where it did not, by the request's bytes and the letters that came."""
        meter = self._translation.meter
        return meter.used or Used(prompt_tokens(asked_bytes), meter.heard_tokens)

    @property
    def has_cost(self) -> bool:
        """It may have been worked on: the request went out, and was not refused."""
        return self.attempt.exchange is not None and self.attempt.status in (0, 200)

    def _without_key(self, told: bytes) -> bytes:
        """Some tell of a refused key within an answer of status 200, and repeat it."""
        assert self.tier.provider is not None
        key = self.tier.provider.key.encode()
        return told.replace(key, MASK) if len(key) >= SHORTEST_KEY and key in told else told

    def _raise(self, status: int, blame: Blame, words: str) -> NoReturn:
        if blame is Blame.BUSY:
            told = self.attempt.told()
            text = f"{self.id} takes no more of our calls for now ({status})"
            raise CapacityError(text, math.ceil(_wait_s(told)))
        if blame in (Blame.KEY, Blame.MODEL):
            self.is_our_mistake = True
            provider, model = named(self.tier)
            telemetry.PROVIDER_OPEN.labels(provider, model).set(0)
            what = "does not know the model" if blame is Blame.MODEL else "refuses our key, or its account"
            way_out = f"see providers.{provider}; `ollamactl providers check` tries it"
            log.error("%s %s (%d): tier %s is without it; %s", self.id, what, status, self.tier.name, way_out)
            raise InstanceError(self.id, f"{what} ({status})", quoted="" if status == 401 else words)
        raise InstanceError(self.id, f"answered {status}", quoted=words)


def masked(said: bytes, provider: Provider) -> bytes:
    """What a provider says without what opens it, which some repeat."""
    for secret in (provider.key, *provider.headers.values()):
        said = said.replace(secret.encode(), MASK) if secret else said
    return said


def named(tier: Tier) -> tuple[str, str]:
    """A tier's provider and model, as metrics name them."""
    assert tier.provider is not None
    return tier.provider.name, tier.model


def _wait_s(told: Told) -> float:
    """Until the provider takes calls again, as far as it says so; a second at least."""
    if told.retry_after_s is not None:
        return max(1.0, told.retry_after_s)
    limits = ((told.remaining_requests, told.reset_requests_s), (told.remaining_tokens, told.reset_tokens_s))
    resets = [reset_s for left, reset_s in limits if left == 0]
    return max(1.0, *resets) if resets else USUAL_RETRY_S


def _now() -> datetime:
    return datetime.now(UTC)
