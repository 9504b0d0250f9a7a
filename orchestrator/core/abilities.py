"""What llama.cpp's model can do, in the words that Ollama has for it: by what `/props` tells of its chat template.

The server itself refuses nothing: tools that a template has no place for are dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# Templates that tell thoughts apart name them so: `<think>`, `enable_thinking`, `reasoning_effort` and their like.
_THOUGHTS: Final = ("think>", "thinking", "reasoning_")


def abilities_of(props: Mapping[str, Any]) -> tuple[str, ...]:
    """Ollama's capabilities; () where nothing is told of the template: older servers."""
    uses = props.get("chat_template_caps")
    if not isinstance(uses, Mapping):
        return ()
    template, senses = props.get("chat_template"), props.get("modalities")
    found = {
        "completion": True,
        "tools": uses.get("supports_tools") or uses.get("supports_tool_calls"),
        "thinking": isinstance(template, str) and any(each in template for each in _THOUGHTS),
        "vision": isinstance(senses, Mapping) and senses.get("vision"),
    }
    return tuple(ability for ability, has_it in found.items() if has_it)
