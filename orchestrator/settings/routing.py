"""Settings of where calls go: tiers, outside providers and what may be used of them, and routes between tiers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.settings.deciding import BreakerSettings, DeepFromSettings, MatchSettings
from orchestrator.settings.escalating import EscalateIfSettings
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


class PriceSettings(Section):
    """US dollars for a million tokens."""

    prompt: Annotated[float, Field(ge=0, le=10**6)] = Field(description="Of prompts.", examples=[0.15])
    completion: Annotated[float, Field(ge=0, le=10**6)] = Field(description="Of answers.", examples=[0.6])


class TierSettings(Section):
    """A role in the plan, and the pool or the provider's model that fills it."""

    model: str = Field(
        description="Pool that answers this tier, a name under `models` or a model of `instances`; with `provider` the "
        "model as that one names it.",
        examples=["llama3.2:3b-instruct-q4_K_M"],
    )
    provider: str | None = Field(
        default=None,
        description="Who answers outside the cluster; a name under `providers`. None: a pool of the cluster.",
        examples=["groq"],
    )
    price: PriceSettings | None = Field(
        default=None, description="What it costs; by default as `providers` or the catalogue say, of pools nothing."
    )
    accepts: Literal["public", "internal", "local"] | None = Field(
        default=None,
        description="The most private class of calls that it answers; by default as its provider's, of pools `local`.",
    )
    backup: str | None = Field(
        default=None,
        description="Tier that answers when this one cannot; a name under `tiers`. When that one cannot, "
        "its own backup is asked, and so on; where that leads back, it ends.",
        examples=["full"],
    )
    calibration: Path | None = Field(
        default=None,
        description="File that says how sure its model is of what it gets right, for `confidence_below`; `ollamactl "
        "route calibrate` writes it. None: one that was made of a very small model.",
        examples=["small-confidence.json"],
    )
    breaker: BreakerSettings = Field(
        default=BreakerSettings(), description="When it is left to its backup because it fails or is slow."
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
    """From a request to a tier, for callers that ask for this route's name as their model, and for what `match` says.

    `primary` names one tier for all; or `chat`, `task` and `deep` one for each role; or `small` and `full` two by size.
    """

    match: MatchSettings | None = Field(
        default=None,
        description="Calls that take this route though they ask for another name; of several routes the first.",
    )
    primary: str | None = Field(
        default=None,
        description="Tier that answers first, however hard the question is; the rest is `escalate_to`'s.",
        examples=["small"],
    )
    chat: str | None = Field(default=None, description="Tier for CHAT; none: as `task`.", examples=["tongue"])
    task: str | None = Field(default=None, description="Tier for TASK.", examples=["worker"])
    deep: str | None = Field(
        default=None,
        description="Tier for what is as hard as `deep_from` says; none: `task` answers.",
        examples=["deep"],
    )
    deep_from: DeepFromSettings = Field(
        default=DeepFromSettings(), description="Difficulty from which `deep` answers, by kind of work."
    )
    band: str | None = Field(
        default=None,
        description="Tier for TASK from `band_from` up to `deep_from`; none: `task` answers there, too.",
        examples=["full"],
    )
    band_from: Annotated[int, Field(ge=1, le=11)] | None = Field(
        default=None, description="Difficulty from which `band` answers; none: 5.", examples=[5]
    )
    small: str | None = Field(
        default=None,
        description="Tier for questions below `chat_full_from` or `task_full_from`; none: `small`, where neither "
        "`primary` nor `task` is named.",
        examples=["small"],
    )
    full: str | None = Field(default=None, description="Tier for the others; none: `full`.", examples=["full"])
    chat_full_from: Annotated[int, Field(ge=1, le=11)] | None = Field(
        default=None, description="Difficulty from which CHAT goes to `full`; none: 8.", examples=[8]
    )
    task_full_from: Annotated[int, Field(ge=1, le=11)] | None = Field(
        default=None, description="Difficulty from which TASK goes to `full`; none: 5.", examples=[5]
    )
    unsure_points: float = Field(
        default=0.0,
        ge=0,
        le=9,
        description="A question is in doubt so many points below a threshold, and goes up; `ollamactl route explain` "
        "shows points. One of which nothing is known, or whose score failed, always is.",
    )
    unsure_rpm: int = Field(
        default=60,
        ge=0,
        le=10**9,
        description="Questions a minute of one API key that go up for doubt, in their difficulty or in a smaller "
        "tier's answer; the next stay with the smaller tier.",
    )
    escalate_to: str | None = Field(
        default=None,
        description="Tier that answers where another one's answer is doubted (`escalate_if`); its own is taken as it "
        "is.",
        examples=["full"],
    )
    escalate_if: tuple[EscalateIfSettings, ...] = Field(
        default=(),
        description="What an answer is doubted for; any entry is enough.",
        examples=[[{"confidence_below": 0.85}, {"refusal": True}]],
    )
    hold_tokens: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None,
        description="First tokens of a stream that are held back, until they were judged; none: 24. What is doubted "
        "later is said in the last frame, and takes nothing back.",
        examples=[24],
    )
    hold_s: Annotated[float, Field(gt=0, le=600)] | None = Field(
        default=None, description="They are shown after so many seconds at the latest; none: 3.", examples=[3]
    )
    buffered: bool = Field(
        default=False, description="Nothing of a stream is shown before all of it was judged; `hold_*` do not apply."
    )
    privacy: Literal["internal", "local"] | None = Field(
        default=None,
        description="Class of its calls, if nothing makes them stricter; none: as `privacy.default`.",
        examples=["local"],
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
    scorer: Literal["trained", "llm"] = Field(
        default="trained",
        description="Who says how hard a question is: weights that ship, in some 0.1 ms; or a model of the cluster "
        "(`scorer_tier`), which each question that it has not judged before waits for.",
    )
    scorer_tier: str | None = Field(
        default=None, description="Tier whose pool is asked with `scorer: llm`; not a provider's.", examples=["small"]
    )
    scorer_timeout_s: float = Field(
        default=2.0, gt=0, le=60, description="Longer a model is not waited for; then the weights that ship decide."
    )
    usual_escalation: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Part of its calls that is usually escalated; none: learnt from the first 2,000 calls, and on.",
        examples=[0.12],
    )
    escalation_shift: float = Field(
        default=0.05, gt=0, le=0.5, description="A change of that part which is to be noticed (`ollamactl drift`)."
    )
