"""Settings of what an answer is doubted for, in the words of a route's `escalate_if`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from orchestrator.core.escalation import threshold_from
from orchestrator.settings.section import Section


def _is_comparison(text: str) -> str:
    threshold_from(text)
    return text


class EscalateIfSettings(Section):
    """One condition under which a higher tier answers instead; each entry of the list has one."""

    confidence_below: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="The answer is likelier wrong than this allows, by its tokens' log probabilities; 0.85 means that "
        "of the answers that are kept 85 in 100 should be right.",
        examples=[0.85],
    )
    schema_invalid: Literal[True] | None = Field(
        default=None, description="The answer is not JSON of the schema that the call asks for."
    )
    tools_needed: Annotated[str, AfterValidator(_is_comparison)] | None = Field(
        default=None, description="The number of tools that the answer calls, compared.", examples=["> 1"]
    )
    refusal: Literal[True] | None = Field(
        default=None, description="The answer begins by refusing or not knowing, in Turkish or English."
    )
    length_cut: Literal[True] | None = Field(default=None, description="The answer was cut at its longest.")
    timeout: Annotated[float, Field(gt=0, le=3600)] | None = Field(
        default=None,
        description="No token came within so many seconds of an instance being asked; a whole answer of Ollama's comes "
        "at once, so all of it must have come.",
        examples=[5],
    )

    @property
    def named(self) -> tuple[str, ...]:
        """The conditions that it names: one, or the entry is wrong."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)
