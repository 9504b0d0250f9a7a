"""Tool calls put together from the parts an answer brings them in.

Ollama sends each whole, its arguments an object; OpenAI's API sends the arguments as text, cut anywhere, and says by
an index which call a part belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from orchestrator.core.model import ToolCall


class ToolCallParts:
    """Parts in, in the order they came; `whole` gives the calls."""

    def __init__(self) -> None:
        self._calls: list[tuple[int | None, dict[str, Any]]] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, parts: Iterable[Mapping[str, Any]]) -> None:
        for part in parts:
            self._add(part, part.get("function") or {})

    def whole(self) -> tuple[ToolCall, ...] | None:
        """The calls; None if the arguments of one are not a JSON object."""
        calls = []
        for _, call in self._calls:
            arguments = _object(call["arguments"])
            if arguments is None:
                return None
            calls.append(ToolCall(call["id"], call["name"], arguments))
        return tuple(calls)

    def _add(self, part: Mapping[str, Any], function: Mapping[str, Any]) -> None:
        arguments = function.get("arguments")
        index = part.get("index") if isinstance(arguments, str) or arguments is None else None
        known = next((call for at, call in reversed(self._calls) if at is not None and at == index), None)
        if known is None or (part.get("id") and known["id"] and part["id"] != known["id"]):
            first = {"id": part.get("id") or "", "name": function.get("name") or "", "arguments": arguments or ""}
            self._calls.append((index, first))
            return
        known["id"] = known["id"] or part.get("id") or ""
        known["name"] = known["name"] or function.get("name") or ""
        known["arguments"] += arguments or ""


def _object(arguments: object) -> Mapping[str, Any] | None:
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments or "{}")
        except orjson.JSONDecodeError:
            return None
    return arguments if isinstance(arguments, dict) else None
