"""What callers ask and are answered, in no dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Dialect(StrEnum):
    """Whose API the caller speaks: it decides the shape of answers, frames and errors."""

    OLLAMA = "ollama"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Endpoint(StrEnum):
    """The inference paths the gateway serves and the engines know; the value is the HTTP path."""

    OLLAMA_CHAT = "/api/chat"
    OLLAMA_GENERATE = "/api/generate"
    OLLAMA_EMBED = "/api/embed"
    OLLAMA_EMBEDDINGS = "/api/embeddings"
    OPENAI_CHAT = "/v1/chat/completions"
    OPENAI_COMPLETIONS = "/v1/completions"
    OPENAI_EMBEDDINGS = "/v1/embeddings"
    OPENAI_RESPONSES = "/v1/responses"
    ANTHROPIC_MESSAGES = "/v1/messages"
    ANTHROPIC_COUNT = "/v1/messages/count_tokens"

    # Asked a dozen times a call, so told once.
    dialect: Dialect
    is_embedding: bool
    is_answered_in_words: bool  # neither vectors nor a number of tokens are wanted
    is_chat: bool  # a conversation, in whatever form

    def __init__(self, path: str) -> None:
        is_younger = path in ("/v1/responses", "/v1/messages", "/v1/messages/count_tokens")
        v1 = Dialect.ANTHROPIC if path.startswith("/v1/messages") else Dialect.OPENAI
        self.dialect = Dialect.OLLAMA if path.startswith("/api/") else v1
        self.is_embedding = "embed" in path
        self.is_answered_in_words = not self.is_embedding and not path.endswith("/count_tokens")
        self.is_chat = is_younger or path.endswith(("/chat", "/chat/completions"))


@dataclass(frozen=True, slots=True)
class Call:
    """One caller's request, parsed once. `body` is the caller's JSON object, never changed in place."""

    endpoint: Endpoint
    model: str
    is_stream: bool
    body: Mapping[str, Any]


class Finish(StrEnum):
    """Why a whole answer ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole, successful answer, in no dialect: what the answer cache keeps and a dialect renders."""

    text: str
    finish: Finish = Finish.STOP
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
