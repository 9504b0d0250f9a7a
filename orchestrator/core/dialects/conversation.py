"""What a call asks, in no dialect: its turns, for routing and cache keys, how it samples, whether it thinks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from orchestrator.core.dialects import anthropic, responses
from orchestrator.core.dialects.openai_rules import reasoning_effort, thinking_of
from orchestrator.core.model import Call, Dialect, Endpoint

# The caller's names on the left of each pair, Ollama's on the right: `sampling` speaks Ollama's.
_OPENAI_NAMES: Final = {
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
_RESPONSES_NAMES: Final = {"max_output_tokens": "num_predict", "temperature": "temperature", "top_p": "top_p"}
_ANTHROPIC_NAMES: Final = {
    "max_tokens": "num_predict",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop_sequences": "stop",
}
_OLLAMA_NAMES: Final = {name: name for name in _OPENAI_NAMES.values()}
_YOUNGER_NAMES: Final[Mapping[Endpoint, Mapping[str, str]]] = {
    **{each: _OPENAI_NAMES for each in Endpoint if each.dialect is Dialect.OPENAI},
    **{each: _ANTHROPIC_NAMES for each in Endpoint if each.dialect is Dialect.ANTHROPIC},
    Endpoint.OPENAI_RESPONSES: _RESPONSES_NAMES,
}

# The younger APIs have no messages as Ollama has them: they are made, as Ollama makes them.
_MAKES_MESSAGES: Final[Mapping[Endpoint, Callable[[Mapping[str, Any]], Iterator[Mapping[str, Any]]]]] = {
    Endpoint.OPENAI_RESPONSES: responses.chat_messages,
    Endpoint.ANTHROPIC_MESSAGES: anthropic.chat_messages,
    Endpoint.ANTHROPIC_COUNT: anthropic.chat_messages,
}


class Turn(NamedTuple):
    """One message. `text` joins the parts of a message that has several; pictures are only noted."""

    role: str
    text: str
    has_images: bool = False


def turns(call: Call, at_most: int | None = None) -> tuple[Turn, ...]:
    """The conversation, or its first turns; oldest turn first. A generate call's system text and prompt are two turns.

    An embedding call has one user turn for each text to embed.
    """
    return tuple(islice(each_turn(call), at_most))


def each_turn(call: Call) -> Iterator[Turn]:
    """`turns`, one by one: for who may have read enough after the first."""
    if call.endpoint.is_chat:
        return map(_turn, chat_messages(call))
    if call.endpoint.is_embedding:
        return (Turn("user", text) for text in embedding_inputs(call))
    return _generate_turns(call)


def has_images(call: Call) -> bool:
    """Whether the call asks about pictures."""
    return may_have_images(call) and (not call.endpoint.is_chat or any(turn.has_images for turn in each_turn(call)))


def may_have_images(call: Call) -> bool:
    """Whether the call has a place with pictures in it, or with parts of which some may be. No text is looked at."""
    endpoint, body = call.endpoint, call.body
    if not endpoint.is_chat:
        return endpoint is Endpoint.OLLAMA_GENERATE and bool(body.get("images"))
    given = body.get("input" if endpoint is Endpoint.OPENAI_RESPONSES else "messages")
    if isinstance(given, list):
        for each in given:
            if each and ("images" in each or "output" in each or isinstance(each.get("content"), list)):
                return True
    return False


def chat_messages(call: Call) -> Iterable[Mapping[str, Any] | None]:
    """The messages of a conversation: the caller's own, or what Ollama makes of those of a younger API."""
    make = _MAKES_MESSAGES.get(call.endpoint)
    return make(call.body) if make is not None else call.body.get("messages") or ()


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
        make = _MAKES_MESSAGES.get(call.endpoint)
        return not call.body.get("messages") if make is None else next(make(call.body), None) is None
    if call.endpoint.is_embedding:
        return not embedding_inputs(call)
    return not call.body.get("prompt")


def sampling(call: Call) -> dict[str, Any]:
    """How the answer is drawn, under Ollama's option names; what the caller left out is left out here too.

    `stop` is always a list. Options that do not change the draw (threads, batch) are not here.
    """
    endpoint = call.endpoint
    is_ollama = endpoint.dialect is Dialect.OLLAMA
    stated_in, names = (call.body.get("options"), _OLLAMA_NAMES) if is_ollama else (call.body, _YOUNGER_NAMES[endpoint])
    if not stated_in:
        return {}
    stated = {names[theirs]: value for theirs, value in stated_in.items() if theirs in names and value is not None}
    if "num_predict" in stated and stated_in.get(newer := "max_completion_tokens") is not None and newer in names:
        stated["num_predict"] = stated_in[newer]  # of OpenAI's two names for it the newer one holds
    if "stop" in stated:
        stated |= _stops(stated.pop("stop"))
    return stated


def is_told_by_sampling(call: Call, field: str) -> bool:
    """Whether `sampling` says all that a field of the call's body does."""
    if call.endpoint.dialect is not Dialect.OLLAMA:
        return field in _YOUNGER_NAMES[call.endpoint]
    return field == "options" and _OLLAMA_NAMES.keys() >= (call.body.get("options") or {}).keys()


def drawn_by(call: Call, name: str) -> Any:
    """One of `sampling`'s numbers, None where the caller did not state it."""
    if call.endpoint.dialect is Dialect.OLLAMA:
        return (call.body.get("options") or {}).get(name)
    return sampling(call).get(name)


def wanted_thinking(call: Call) -> bool | str | None:
    """Whether the caller wants the model to think: yes, no, a level, or None where it was not said."""
    if call.endpoint.dialect is Dialect.OLLAMA:
        think: bool | str | None = call.body.get("think")
        return think
    if call.endpoint.dialect is Dialect.ANTHROPIC:
        return anthropic.wanted_thinking(call.body)
    has_effort = call.endpoint in (Endpoint.OPENAI_CHAT, Endpoint.OPENAI_RESPONSES)
    return thinking_of(reasoning_effort(call.body)) if has_effort else None


def wants_format(call: Call) -> bool:
    """The answer shall be JSON, of a schema or of any."""
    if call.endpoint is Endpoint.OPENAI_RESPONSES:
        return bool(responses.wanted_format(call.body))
    if call.endpoint is Endpoint.ANTHROPIC_MESSAGES:
        return bool(anthropic.wanted_format(call.body))
    return bool(call.body.get("format") or call.body.get("response_format"))


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


def _turn(message: Mapping[str, Any] | None) -> Turn:
    if not message:
        return Turn("", "")
    role = str(message.get("role") or "").lower()
    content = message.get("content")
    if not isinstance(content, list):
        # Beside calls of tools Ollama passes over a content of any other type.
        return Turn(role, content if isinstance(content, str) else "", bool(message.get("images")))
    texts = (part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return Turn(role, "\n".join(texts), has_images=any(_is_image(part) for part in content))


def _is_image(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "image_url"
