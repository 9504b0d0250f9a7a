"""Settings of where calls go: tiers, outside providers and what may be used of them, and routes between tiers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.settings.section import Section


class BudgetSettings(Section):
    """What may be used; none of a kind: as much as anybody likes. Days and months are those of UTC."""

    rpm: Annotated[int, Field(ge=1, le=10**9)] | None = Field(default=None, description="Requests a minute.")
    rpd: Annotated[int, Field(ge=1, le=10**12)] | None = Field(default=None, description="Requests a day.")
    tpm: Annotated[int, Field(ge=1, le=10**12)] | None = Field(
        default=None, description="Tokens a minute, of prompts and answers together."
    )
    tpd: Annotated[int, Field(ge=1, le=10**15)] | None = Field(default=None, description="Tokens a day.")
    concurrent: Annotated[int, Field(ge=1, le=10**6)] | None = Field(
        default=None, description="Requests under way at once."
    )
    usd_day: Annotated[float, Field(gt=0, le=10**9)] | None = Field(
        default=None, description="US dollars a day, by the prices of tiers."
    )
    usd_month: Annotated[float, Field(gt=0, le=10**9)] | None = Field(default=None, description="US dollars a month.")


class TierSettings(Section):
    """A role in the plan, and the pool that fills it."""

    model: str = Field(
        description="Pool that answers this tier; a name under `models`, or a model of `instances`.",
        examples=["llama3.2:3b-instruct-q4_K_M"],
    )
    backup: str | None = Field(
        default=None,
        description="Tier that answers when this one cannot; a name under `tiers`. A backup's own backup is not asked.",
        examples=["full"],
    )
    limits: BudgetSettings = Field(
        default=BudgetSettings(), description="What may be used of this tier; beyond it `backup` answers."
    )
    share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Part of all calls that it answers, for models with `replicas: auto`; what tiers leave is cached.",
        examples=[0.3],
    )
    answer_s: Annotated[float, Field(gt=0, le=3600)] | None = Field(
        default=None,
        description="A usual answer should take no longer, predicted from published numbers of the GPUs; calls that "
        "would take longer do not count as served when instances are placed.",
        examples=[5],
    )


class RouteSettings(Section):
    """From a request to a tier, for callers that ask for this route's name as their model."""

    small: str = Field(default="small", description="Tier for questions below `chat_full_from` or `task_full_from`.")
    full: str = Field(default="full", description="Tier for the others.")
    chat_full_from: Annotated[int, Field(ge=1, le=11)] = Field(
        default=8, description="Difficulty from which CHAT goes to `full`."
    )
    task_full_from: Annotated[int, Field(ge=1, le=11)] = Field(
        default=5, description="Difficulty from which TASK goes to `full`."
    )
    cache: Literal["off", "deterministic", "all"] = Field(
        default="all", description="Which calls of this route the answer cache may answer and keep."
    )
    cache_shared: bool = Field(
        default=False, description="One API key may be given an answer of this route that was made for another."
    )
    cache_spellings: bool = Field(
        default=True,
        description="A single plain question in Turkish or English is the same with other capitals, blanks and closing "
        "marks; names that are small words otherwise (the US), sums, code and questions about words are not.",
    )
    cache_paraphrases: bool = Field(
        default=False,
        description="A question that means what another one meant is given its answer: single plain questions in "
        "Turkish or English, of which numbers, negations and every word that means something agree.",
    )
    cache_ttl_s: Annotated[int, Field(ge=1, le=315_360_000)] | None = Field(
        default=None, description="`cache.ttl_s` of this route.", examples=[3600]
    )
    cache_stale_while_revalidate_s: Annotated[int, Field(ge=0, le=315_360_000)] | None = Field(
        default=None, description="`cache.stale_while_revalidate_s` of this route.", examples=[600]
    )
    cache_stale_if_error_s: Annotated[int, Field(ge=0, le=315_360_000)] | None = Field(
        default=None, description="`cache.stale_if_error_s` of this route.", examples=[86_400]
    )
