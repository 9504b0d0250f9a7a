"""A record of LiteLLM's proxy as one of ours: its logging payload, or a row of its spend logs.

Both are what its documentation calls `StandardLoggingPayload` and `LiteLLM_SpendLogs`; fields that one of them does not
have are empty here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from orchestrator.core.call_record import CallRecord


class NoRecordError(ValueError):
    """It is not what LiteLLM logs of a call."""


def record(told: Any) -> CallRecord:
    """Raises NoRecordError."""
    if not isinstance(told, dict) or not ({"startTime", "start_time"} & told.keys()):
        raise NoRecordError("an object with `startTime` is wanted")
    metadata = _mapping(told.get("metadata"))
    usage = _mapping(metadata.get("usage_object") or told.get("usage"))
    details, prompt_details = (
        _mapping(usage.get("completion_tokens_details")),
        _mapping(usage.get("prompt_tokens_details")),
    )
    hidden = _mapping(told.get("hidden_params"))
    began = _seconds(told.get("startTime", told.get("start_time")))
    ended = _seconds(told.get("endTime", told.get("end_time", began)))
    first = _seconds(told.get("completionStartTime", told.get("completion_start_time")) or ended)
    is_hit = str(told.get("cache_hit")).lower() == "true"
    prompt = _number(told.get("prompt_tokens", usage.get("prompt_tokens")))
    reasoning = details.get("reasoning_tokens")
    overhead = hidden.get("litellm_overhead_time_ms", metadata.get("litellm_overhead_time_ms"))
    return CallRecord(
        at_ms=round(began * 1e3),
        id=_shown(told.get("request_id") or told.get("id") or ""),
        caller=_shown(metadata.get("user_api_key_alias") or told.get("user") or told.get("end_user") or "anonymous"),
        agent=_shown(metadata.get("user_agent") or _mapping(metadata.get("headers")).get("user-agent") or ""),
        session=_shown(told.get("session_id") or told.get("trace_id") or ""),
        path=_shown(told.get("call_type") or ""),
        model=_shown(told.get("model_group") or told.get("model") or ""),
        tier="cache" if is_hit else _shown(told.get("custom_llm_provider") or "provider"),
        instance=_shown(told.get("api_base") or ""),
        cache="hit" if is_hit else "off" if told.get("cache_hit") in (None, "None", "") else "miss",
        why="",
        outcome="ok" if str(told.get("status", "success")) == "success" else _error(told, metadata),
        status=200 if str(told.get("status", "success")) == "success" else 500,
        stream=bool(told.get("stream")),
        prompt_tokens=int(prompt),
        completion_tokens=int(_number(told.get("completion_tokens", usage.get("completion_tokens")))),
        reasoning_tokens=None if reasoning is None else int(_number(reasoning)),
        cached_tokens=int(prompt) if is_hit else int(_number(prompt_details.get("cached_tokens"))),
        queue_ms=0.0,
        wait_ms=0.0,
        overhead_ms=float(_number(overhead)),
        first_byte_ms=max(0.0, (first - began) * 1e3),
        total_ms=max(0.0, (ended - began) * 1e3),
        failures=0,
        escalated="",
        usd=float(_number(told.get("response_cost", told.get("spend")))),
        simulated=False,
    )


def _shown(told: object) -> str:
    """Fit for a terminal: it gives that no orders."""
    text = str(told)
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


def _error(told: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    named = _mapping(told.get("error_information") or metadata.get("error_information")).get("error_class")
    return _shown(named or told.get("status"))


def _mapping(given: Any) -> Mapping[str, Any]:
    """An object, also where it is kept as JSON's text; anything else is none."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return {}
    return given if isinstance(given, dict) else {}


def _number(given: Any) -> float:
    if given is None:
        return 0.0
    try:
        return float(given)
    except (TypeError, ValueError) as why:
        raise NoRecordError(f"{given!r} is no number") from why


def _seconds(given: Any) -> float:
    """Unix seconds, also of an ISO moment; one without a zone is UTC, as its spend logs are."""
    if isinstance(given, int | float):
        return float(given)
    try:
        moment = datetime.fromisoformat(str(given).replace("Z", "+00:00"))
    except ValueError as why:
        raise NoRecordError(f"{given!r} is no time") from why
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
