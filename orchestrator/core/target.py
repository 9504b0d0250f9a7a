"""What a tier sends to, beside its pool: an outside provider, what may be asked of it, what that costs.

A budget is what somebody may use: a target, a tier, an API key. `limits` decides with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

TOKENS_A_PRICE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be used: requests and tokens by minute and day (UTC), calls at once, US dollars by day and month.

    None: as much as anybody likes.
    """

    rpm: int | None = None
    rpd: int | None = None
    tpm: int | None = None
    tpd: int | None = None
    concurrent: int | None = None
    usd_day: float | None = None
    usd_month: float | None = None

    @property
    def is_endless(self) -> bool:
        return self is ENDLESS or self == ENDLESS


ENDLESS: Final = Budget()


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """US dollars for a call with so many tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / TOKENS_A_PRICE


@dataclass(frozen=True, slots=True)
class Manners:
    """Where a provider's API differs from OpenAI's chat completions."""

    renames: Mapping[str, str] = field(default_factory=dict)  # of a request's fields
    refuses: frozenset[str] = frozenset()  # fields that make it refuse the request
    efforts: Mapping[str, tuple[str, ...]] | None = None  # reasoning efforts by pattern of models; None: any
    has_schemas: bool = True  # an answer may be bound to a JSON schema, and not to JSON alone
    tool_id_letters: int = 0  # what ids of tool calls must have, letters and digits; 0: anything

    def efforts_of(self, model: str) -> tuple[str, ...] | None:
        """The words for effort that this model takes; None: any."""
        if self.efforts is None:
            return None
        return next((words for pattern, words in self.efforts.items() if fnmatchcase(model, pattern)), ())


@dataclass(frozen=True, slots=True)
class Provider:
    """An endpoint outside the cluster that speaks OpenAI's API below `prefix`, `/v1` mostly."""

    name: str
    host: str
    port: int
    is_tls: bool
    prefix: str
    key: str = field(default="", repr=False)
    ca: str = ""  # file of the certificates that are trusted; empty: the system's
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # a key may be among them
    budget: Budget = field(default_factory=Budget)  # of the whole account, whichever tiers use it
    manners: Manners = field(default_factory=Manners)
