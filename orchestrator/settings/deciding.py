"""Settings of how a route decides: which calls take it, from which difficulty up, and when a tier is left alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from orchestrator.core.patterns import compile_pattern
from orchestrator.settings.section import HEADER_NAME, Section


def _check_pattern(pattern: str) -> str:
    compile_pattern(pattern)
    return pattern


HeaderName = Annotated[str, Field(pattern=HEADER_NAME)]
Language = Literal["tr", "en", "other"]
Level = Annotated[int, Field(ge=1, le=11)]


class MatchSettings(Section):
    """What a call must have for a route to take it: all that is said here. Globs know no capitals."""

    model: str | tuple[str, ...] = Field(
        default=(),
        description="Globs of the model's name as the caller gives it, known here or not. None: calls that ask for a "
        "route which has no `match`; who names a model gets that model.",
        examples=[["gpt-4*", "auto"]],
    )
    header: dict[HeaderName, str] = Field(
        default={}, description="Globs of headers' values, by header.", examples=[{"X-Team": "support*"}]
    )
    key: str | tuple[str, ...] = Field(default=(), description="Globs of API keys' names.", examples=[["support-*"]])
    path: str | tuple[str, ...] = Field(default=(), description="Globs of the HTTP path.", examples=[["/v1/*"]])
    text: Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_check_pattern)] | None = Field(
        default=None,
        description="Regular expression (of Rust's `regex`: no look-around) that the user's last text has somewhere; "
        "of a long one the first and the last 16,384 letters are read.",
        examples=["(?i)invoice|fatura"],
    )
    tokens_from: Annotated[int, Field(ge=0, le=10**9)] | None = Field(
        default=None, description="Tokens of the prompt at least, taken as letters / 4.", examples=[4000]
    )
    tokens_to: Annotated[int, Field(ge=0, le=10**9)] | None = Field(
        default=None, description="Tokens of the prompt at most.", examples=[400]
    )
    tools: bool | None = Field(default=None, description="Whether it offers tools.", examples=[True])
    images: bool | None = Field(default=None, description="Whether it shows pictures.", examples=[True])
    json_schema: bool | None = Field(
        default=None, description="Whether its answer shall be JSON, of a schema or of any.", examples=[True]
    )
    language: Language | tuple[Language, ...] = Field(
        default=(), description="Language of the user's last text: `tr`, `en` or `other`.", examples=[["tr"]]
    )


class DeepFromSettings(Section):
    """Difficulty from which a route's `deep` tier answers, by kind of work; 11: never."""

    default: Level = Field(default=8, description="Of tasks whose kind is not named here.")
    chat: Level = Field(default=11, description="Of CHAT.")
    code: Level | None = Field(default=None, description="Of code.", examples=[5])
    reasoning: Level | None = Field(default=None, description="Of mathematics and reasoning.", examples=[7])
    extraction: Level | None = Field(default=None, description="Of extraction.", examples=[7])
    summary: Level | None = Field(default=None, description="Of summaries.", examples=[7])
    classification: Level | None = Field(default=None, description="Of classification.", examples=[7])
    translation: Level | None = Field(default=None, description="Of translation.", examples=[7])
    rag: Level | None = Field(default=None, description="Of texts prepared for search (RAG).", examples=[7])
    rewriting: Level | None = Field(default=None, description="Of rewriting.", examples=[7])
    creative: Level | None = Field(default=None, description="Of creative writing that counts as TASK.", examples=[7])
    question: Level | None = Field(default=None, description="Of questions that are none of these.", examples=[7])

    def named(self) -> dict[str, int]:
        """The kinds of work that have a level of their own."""
        told = self.model_dump(exclude={"default", "chat"})
        return {name: level for name, level in told.items() if level is not None}


class BreakerSettings(Section):
    """When a tier that has a backup, or is outside, is left alone for a while because it fails or is slow."""

    failures: float = Field(default=0.5, gt=0, le=1, description="Share of failed calls from which it is left alone.")
    at_least: int = Field(default=10, ge=1, le=100_000, description="Of so many calls at least.")
    window_s: float = Field(default=30.0, gt=0, le=3600, description="Calls of so long a time are looked at.")
    open_s: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        description="So long it is left alone; then one call tries it. Doubled each time that call fails.",
    )
    open_most_s: float = Field(default=300.0, gt=0, le=86_400, description="The longest that it is left alone.")
    slow_s: Annotated[float, Field(gt=0, le=3600)] | None = Field(
        default=None,
        description="An answer that begins later than this, the wait for a slot included, counts as failed.",
        examples=[10],
    )
