"""Settings of outside providers: where they are, what opens them, how much may be used and what may go there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from orchestrator.settings.routing import BudgetSettings, PriceSettings
from orchestrator.settings.section import Section
from orchestrator.settings.syntax import check_provider_url


class ProviderSettings(Section):
    """An API like OpenAI's that somebody else runs. Prompts of tiers that name it leave the cluster."""

    url: Annotated[str | None, AfterValidator(check_provider_url)] = Field(
        default=None,
        description="Where its API begins, `/v1` mostly; `ollamactl providers list` has those that may be left out.",
        examples=["https://api.groq.com/openai/v1"],
    )
    key: SecretStr | None = Field(
        default=None,
        description="Its API key, as `env:NAME` or `file:PATH`; none where it asks for none.",
        examples=["env:GROQ_KEY"],
    )
    like: str | None = Field(
        default=None,
        description="Provider of the catalogue whose address, prices and manners it has, where its name is another.",
        examples=["groq"],
    )
    plan: str | None = Field(
        default=None,
        description="Plan of the catalogue whose quotas hold where `limits` and those of tiers say nothing.",
        examples=["free"],
    )
    accepts: Literal["public", "internal"] = Field(
        default="public", description="The most private class of calls that may go there; never `local`."
    )
    limits: BudgetSettings = Field(
        default=BudgetSettings(), description="What all tiers together may use of it; beyond it their backups answer."
    )
    prices: dict[str, PriceSettings] = Field(
        default={},
        description="Prices by model, in place of the catalogue's.",
        examples=[{"llama-3.3-70b-versatile": {"prompt": 0.59, "completion": 0.79}}],
    )
    ca: Path | None = Field(
        default=None,
        description="File of the certificates (PEM) that its own is checked by; none: the system's.",
        examples=["company-ca.pem"],
    )
    in_clear: bool = Field(
        default=False, description="May be asked over http:// though it is not in this machine's private network."
    )
    headers: dict[str, SecretStr] = Field(
        default={},
        description="More headers of each request; values may be `env:NAME` or `file:PATH`.",
        examples=[{"X-Title": "support"}],
    )
