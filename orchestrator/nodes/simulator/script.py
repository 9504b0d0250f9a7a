"""What a call asks, as one text; and fixed answers by that text, so that tests can play recorded ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from orchestrator.core.dialects.as_chat import as_chat
from orchestrator.core.dialects.checks import wanted_thinking
from orchestrator.core.dialects.llama_request import wanted_logprobs
from orchestrator.core.dialects.parse import canonical_model_name, sampling, turns
from orchestrator.core.model import Call, Dialect, Endpoint, ToolCall
from orchestrator.nodes.simulator.config import ScriptedAnswer
from orchestrator.nodes.simulator.work import Piece, Reply

_KINDS: Final = {
    Endpoint.OLLAMA_CHAT: "chat",
    Endpoint.OPENAI_CHAT: "chat",
    Endpoint.OLLAMA_GENERATE: "generate",
    Endpoint.OPENAI_COMPLETIONS: "generate",
    Endpoint.OLLAMA_EMBED: "embed",
    Endpoint.OPENAI_EMBEDDINGS: "embed",
    Endpoint.OLLAMA_EMBEDDINGS: "embeddings",  # the old path gives the same vectors with more digits
}


def question(call: Call) -> str:
    """All of `call` that decides its answer, the same for the same question in any dialect."""
    call = as_chat(call)
    asked = {
        "kind": _KINDS[call.endpoint],
        "model": canonical_model_name(call.model),
        "turns": [[turn.role, turn.text] for turn in turns(call)],
        "tools": call.body.get("tools"),
        "format": wanted_format(call),
        "thinking": wanted_thinking(call),
        "logprobs": wanted_logprobs(call),
        "sampling": sampling(call),
        "other": [call.body.get(name) for name in ("raw", "context", "suffix", "dimensions")],
    }
    return orjson.dumps(asked, option=orjson.OPT_SORT_KEYS).decode()


def wanted_format(call: Call) -> Any:
    """ "json", a JSON schema, or None for free text."""
    if call.endpoint.dialect is Dialect.OLLAMA:
        return call.body.get("format") or None
    wanted = call.body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return (wanted.get("json_schema") or {}).get("schema") or "json"
    return "json" if wanted.get("type") == "json_object" else None


class Script:
    """Fixed answers by question."""

    def __init__(self, answers: Iterable[ScriptedAnswer]) -> None:
        self._answers = {each.question: each for each in answers}

    def reply(self, asked: str) -> Reply | None:
        """The scripted reply, if there is one."""
        found = self._answers.get(asked)
        if found is None or found.vectors:
            return None
        pieces = tuple(map(_piece, found.pieces))
        tail = max(0, found.completion_tokens - sum(piece.tokens for piece in pieces))
        return Reply(pieces, found.finish, found.prompt_tokens, tail, found.context)

    def vectors(self, asked: str) -> tuple[tuple[tuple[float, ...], ...], int] | None:
        """The scripted vectors and the tokens they were made of."""
        found = self._answers.get(asked)
        return (found.vectors, found.prompt_tokens) if found is not None and found.vectors else None


def _piece(given: Mapping[str, Any]) -> Piece:
    calls = tuple(ToolCall(each["id"], each["name"], each["arguments"]) for each in given.get("tool_calls", ()))
    return Piece(
        text=given.get("text", ""),
        thinking=given.get("thinking", ""),
        tool_calls=calls,
        logprobs=tuple(given.get("logprobs", ())),
        tokens=given.get("tokens", 1),
    )
