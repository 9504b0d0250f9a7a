"""What a call asks, in neither dialect: its turns, for routing and cache keys, and how it samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.core.model import Call, Dialect, Endpoint

# OpenAI's names on the left of each pair, Ollama's on the right: `sampling` speaks Ollama's.
_SAMPLING_NAMES = {
    "max_tokens": "num_predict",
    "max_completion_tokens": "num_predict",
    "temperature": "temperature",
    "seed": "seed",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repeat_penalty": "repeat_penalty",
    "stop": "stop",
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. `text` joins the parts of a message that has several; pictures are only noted."""

    role: str
    text: str
    has_images: bool = False


def turns(call: Call) -> tuple[Turn, ...]:
    """The conversation, oldest turn first; a generate call's system text and prompt count as two turns.

    An embedding call has one user turn for each text to embed.
    """
    if call.endpoint.is_chat:
        return tuple(_turn(message or {}) for message in call.body.get("messages") or ())
    if call.endpoint.is_embedding:
        return tuple(Turn("user", text) for text in embedding_inputs(call))
    return tuple(_generate_turns(call))


def embedding_inputs(call: Call) -> tuple[str, ...]:
    """The texts an embedding call wants vectors for."""
    given = call.body.get("prompt" if call.endpoint is Endpoint.OLLAMA_EMBEDDINGS else "input")
    if isinstance(given, str):
        # Ollama's own endpoints take an empty text for a request to load; OpenAI's embeds it.
        return (given,) if given or call.endpoint is Endpoint.OPENAI_EMBEDDINGS else ()
    return tuple(given or ())


def is_load_request(call: Call) -> bool:
    """The call carries nothing to answer: Ollama loads the model and says so. (Or unloads it: `is_unload_request`.)"""
    if call.endpoint.is_chat:
        return not call.body.get("messages")
    if call.endpoint.is_embedding:
        return not embedding_inputs(call)
    return not call.body.get("prompt")


def sampling(call: Call) -> dict[str, Any]:
    """How the answer is drawn, under Ollama's option names; what the caller left out is left out here too.

    `stop` is always a list. Options that do not change the draw (threads, batch) are not here.
    """
    if call.endpoint.dialect is Dialect.OLLAMA:
        options = call.body.get("options") or {}
        known = {name: options[name] for name in dict.fromkeys(_SAMPLING_NAMES.values()) if name in options}
    else:
        known = {ours: call.body[theirs] for theirs, ours in _SAMPLING_NAMES.items() if theirs in call.body}
    stated = {name: value for name, value in known.items() if value is not None and name != "stop"}
    return stated | _stops(known.get("stop"))


def _stops(stop: object) -> dict[str, list[str]]:
    """OpenAI takes one text for a list of one; what is no text Ollama passes over."""
    stops = [each for each in (stop if isinstance(stop, list) else [stop]) if isinstance(each, str)]
    return {"stop": stops} if stops else {}


def _generate_turns(call: Call) -> Iterator[Turn]:
    if call.endpoint is Endpoint.OLLAMA_GENERATE and call.body.get("system"):
        yield Turn("system", call.body["system"])
    has_images = call.endpoint is Endpoint.OLLAMA_GENERATE and bool(call.body.get("images"))
    if call.body.get("prompt") or has_images:
        yield Turn("user", call.body.get("prompt") or "", has_images)


def _turn(message: Mapping[str, Any]) -> Turn:
    role = str(message.get("role") or "").lower()
    content = message.get("content")
    if not isinstance(content, list):
        return Turn(role, content or "", has_images=bool(message.get("images")))
    texts = (part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return Turn(role, "\n".join(texts), has_images=any(_is_image(part) for part in content))


def _is_image(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "image_url"
