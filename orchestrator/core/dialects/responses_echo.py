"""What a response of `/v1/responses` tells again of the call it answers, and the fields that are always the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.core.dialects.frames import Fields, Stats


def echo(asked: Mapping[str, Any], *, is_event: bool) -> Fields:
    """The call's wishes with Ollama's defaults, in the order of its structs. `is_event`: as events have them."""
    return {
        "instructions": asked.get("instructions") or None,
        "tools": [_tool(tool, is_event=is_event) for tool in asked.get("tools") or () if tool],
        "tool_choice": "auto",
        "truncation": asked.get("truncation", "disabled"),
        "parallel_tool_calls": True,
        "text": {"format": _format((asked.get("text") or {}).get("format"), is_event=is_event)},
        "top_p": _number(asked.get("top_p", 1)),
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": 0,
        "temperature": _number(asked.get("temperature", 1)),
        "reasoning": _reasoning(asked.get("reasoning") or {}, is_event=is_event),
        "usage": None,
        "max_output_tokens": asked.get("max_output_tokens"),
        "max_tool_calls": None,
        "store": False,
        "background": False,
        "service_tier": "default",
        "metadata": {},
        "safety_identifier": None,
        "prompt_cache_key": None,
    }


def usage_fields(stats: Stats) -> Fields:
    """What the answer cost; Ollama tells neither which tokens were cached nor which were thoughts."""
    return {
        "input_tokens": stats.prompt_tokens,
        "output_tokens": stats.completion_tokens,
        "total_tokens": stats.prompt_tokens + stats.completion_tokens,
        "input_tokens_details": {"cached_tokens": stats.cached_tokens},
        "output_tokens_details": {"reasoning_tokens": 0},
    }


def in_order_of_alphabet(fields: Mapping[str, Any]) -> Fields:
    """Go writes its maps so; what is within the fields keeps its order."""
    return dict(sorted(fields.items()))


def _tool(tool: Mapping[str, Any], *, is_event: bool) -> Fields:
    fields: Fields = {"type": tool.get("type") or "", "name": tool.get("name") or ""}
    fields |= {name: tool.get(name) for name in ("description", "strict")}
    fields["parameters"] = _sorted_within(tool.get("parameters"))
    if is_event:
        return in_order_of_alphabet(fields)
    members = [_tool(member, is_event=False) for member in tool.get("tools") or () if member]
    return fields | ({"tools": members} if members else {})


def _format(given: Mapping[str, Any] | None, *, is_event: bool) -> Fields:
    """A schema is told in the caller's own order."""
    if given is None:
        return {"type": "text"}
    fields: Fields = {"type": given.get("type") or ""}
    fields |= {name: given[name] for name in ("name", "schema", "strict") if given.get(name) not in (None, "")}
    return in_order_of_alphabet(fields) if is_event else fields


def _reasoning(given: Mapping[str, Any], *, is_event: bool) -> Fields | None:
    fields = {name: given.get(name) or None for name in ("effort", "summary")}
    if not any(fields.values()):
        return None
    return fields if is_event else {name: value for name, value in fields.items() if value}


def _number(value: float) -> float:
    """Go writes a float without a fraction as a whole number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sorted_within(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted_within(value[name]) for name in sorted(value)}
    return [_sorted_within(each) for each in value] if isinstance(value, list) else value
