"""Whether a stream whose instance was lost may go on at another, and what is asked of that one.

The other instance is given what was said so far as the beginning of the answer. An engine goes on from there where the
model's template leaves the last message open: Ollama's own renderers, llama.cpp's server, and templates do so or not,
each as it was written (0042). What an answer is made of beside words cannot be begun for an engine: thoughts, calls of
tools, JSON of a schema, log probabilities; so such a stream ends where it broke.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from orchestrator.core.dialects.conversation import drawn_by, wanted_thinking, wants_format
from orchestrator.core.dialects.resuming import SoFar
from orchestrator.core.model import Call, Dialect, Endpoint, Pool

# Of one call: what loses three instances is more likely at fault than they are.
MOST: Final = 2

_SPEAK: Final = frozenset({
    *(Endpoint.OLLAMA_CHAT, Endpoint.OLLAMA_GENERATE),
    *(Endpoint.OPENAI_CHAT, Endpoint.OPENAI_COMPLETIONS, Endpoint.ANTHROPIC_MESSAGES),
})  # fmt: skip
# Of a prompt without a conversation: these have no place in one.
_OF_GENERATE: Final = ("suffix", "template", "context")
_PROMPT: Final = frozenset({"prompt", "system", "images", "raw", *_OF_GENERATE})
_LIMITS: Final = {Dialect.OPENAI: ("max_tokens", "max_completion_tokens"), Dialect.ANTHROPIC: ("max_tokens",)}
# Those of Ollama's renderers that leave a last message of the assistant's open, letter by letter (model/renderers of
# v0.33).
_OPEN_RENDERERS: Final = frozenset({"lfm2", "olmo3", "olmo3.1", "qwen3-coder", "qwen3-vl-instruct"})
_RENDERER: Final = re.compile(r"^RENDERER\s+\"?([\w.-]+)", re.MULTILINE)
# As models of Ollama's library have it: the end of a message is written if it is not the last.
_LEAVES_OPEN: Final = re.compile(r"\bnot\s+(?:\$\w*[lL]ast\b|\(eq\s+\(len\s+\(slice\b)")


class Next(NamedTuple):
    """What to ask next. `is_full`: the caller allows no more tokens; one is asked for, and only its counts are told."""

    call: Call
    is_full: bool = False


def why_not(call: Call, show: Mapping[str, Any], *, has_template: bool) -> str:
    """Why an answer to `call` is not to be continued, in a word; empty where it may be.

    `show`: what Ollama's /api/show says of the model. `has_template`: an engine that goes by it may be asked.
    """
    body = call.body
    if call.endpoint not in _SPEAK:
        return "dialect"
    if body.get("tools") or body.get("functions"):
        return "tools"
    if wants_format(call):
        return "format"
    if body.get("logprobs") or body.get("top_logprobs"):
        return "logprobs"
    wanted = wanted_thinking(call)
    if wanted or (wanted is None and "thinking" in (show.get("capabilities") or ())):
        return "thinking"
    if call.endpoint.is_chat:
        return "" if not has_template or keeps_open(show) else "template"
    if call.endpoint is Endpoint.OLLAMA_GENERATE and body.get("raw"):
        return ""
    modelfile = str(show.get("modelfile") or "")
    if any(body.get(each) for each in _OF_GENERATE) or "\nMESSAGE " in modelfile:
        return "prompt"
    return "" if not has_template or keeps_open(show) else "template"


def may_continue(call: Call, pool: Pool, *, has_template: bool) -> bool:
    """Whether it is worth keeping what a stream has said."""
    return call.is_stream and not why_not(call, pool.details.get("show") or {}, has_template=has_template)


def keeps_open(show: Mapping[str, Any]) -> bool:
    """Whether the model's template leaves a last message of the assistant's open, so that the model goes on in it."""
    template = show.get("template")
    return isinstance(template, str) and _keeps_open(template, str(show.get("modelfile") or ""))


@functools.lru_cache(maxsize=64)
def _keeps_open(template: str, modelfile: str) -> bool:
    renderer = _RENDERER.search(modelfile)
    if renderer is not None:
        return renderer[1] in _OPEN_RENDERERS
    if ".Messages" not in template:  # Ollama cuts such a one behind `.Response` (template/template.go, v0.33)
        return True
    return _LEAVES_OPEN.search(template) is not None


def next_call(call: Call, so_far: SoFar) -> Next:
    """The call that has the rest of the answer told."""
    limit = drawn_by(call, "num_predict")
    left = int(limit) - so_far.tokens if isinstance(limit, int | float) and limit > 0 else None
    body = _begun(call, so_far.text) if so_far.text else dict(call.body)
    if left is not None and so_far.text:
        body |= _limited(call, max(1, left))
    endpoint = call.endpoint
    if so_far.text and "messages" in body:
        endpoint = _CHATS.get(endpoint, endpoint)
    return Next(replace(call, endpoint=endpoint, body=body), left is not None and left <= 0)


_CHATS: Final = {Endpoint.OLLAMA_GENERATE: Endpoint.OLLAMA_CHAT, Endpoint.OPENAI_COMPLETIONS: Endpoint.OPENAI_CHAT}


def _begun(call: Call, text: str) -> dict[str, Any]:
    """The body with the answer's beginning in it."""
    body = dict(call.body)
    if call.endpoint is Endpoint.OLLAMA_GENERATE and body.get("raw"):
        return body | {"prompt": f"{body['prompt']}{text}"}
    messages = list(body.get("messages") or ())
    if not call.endpoint.is_chat:
        messages = _conversation(body)
        body = {name: value for name, value in body.items() if name not in _PROMPT}
    last = messages[-1] if messages else None
    if isinstance(last, Mapping) and last.get("role") == "assistant" and isinstance(last.get("content"), str):
        # The caller itself has begun the answer: two such messages would be parted by Ollama.
        messages[-1] = {**last, "content": f"{last['content']}{text}"}
    else:
        messages.append({"role": "assistant", "content": text})
    return body | {"messages": messages}


def _conversation(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What Ollama makes of a prompt before it renders it."""
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    images = {"images": body["images"]} if body.get("images") else {}
    return [*system, {"role": "user", "content": body.get("prompt") or "", **images}]


def _limited(call: Call, tokens: int) -> dict[str, Any]:
    if call.endpoint.dialect is Dialect.OLLAMA:
        return {"options": {**(call.body.get("options") or {}), "num_predict": tokens}}
    return {name: tokens for name in _LIMITS[call.endpoint.dialect] if call.body.get(name)}
