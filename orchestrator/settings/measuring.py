"""Settings of what is measured while the cluster serves: evaluations that are run again and again."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from orchestrator.settings.section import KeyName, ModelName, Section


class EvalSettings(Section):
    """A set of questions asked again and again, last in the queue: what `ollamactl eval run` does, by itself."""

    set: Path | None = Field(
        default=None,
        description="Questions with their answers, one JSON object a line; none: nothing is asked.",
        examples=["eval.jsonl"],
    )
    targets: tuple[ModelName, ...] = Field(
        default=(), description="Tiers, routes or models that are asked; at least one.", examples=[["small", "full"]]
    )
    every_s: int = Field(default=86_400, ge=60, le=31_536_000, description="From one run's end to the next one.")
    at_once: int = Field(default=1, ge=1, le=64, description="Questions under way at once.")
    tokens: int = Field(default=512, ge=1, le=1_000_000, description="An answer's most tokens.")
    judge: ModelName | None = Field(
        default=None, description="Model that grades answers which no rule can; for sets that have such questions."
    )
    key: KeyName | None = Field(
        default=None, description="Name of the API key that asks; needed where there are `keys`.", examples=["eval"]
    )
