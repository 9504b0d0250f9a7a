"""An answer whose beginning the caller gives: a simulated model goes on in it, as a real one does.

Ollama leaves a last message of the assistant's open, and a raw prompt ends wherever its caller ends it. What would have
been said without it is said from there on, in the same words. A beginning that is not of this model's own words is read
like any other message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from orchestrator.core.dialects.as_chat import as_chat
from orchestrator.core.dialects.parse import sampling, turns
from orchestrator.core.model import Call, Dialect, Endpoint
from orchestrator.nodes.simulator.tokens import said_tokens
from orchestrator.nodes.simulator.work import Piece, Reply

_PROMPTS = {Endpoint.OLLAMA_CHAT: Endpoint.OLLAMA_GENERATE, Endpoint.OPENAI_CHAT: Endpoint.OPENAI_COMPLETIONS}
_MARKER = re.compile(r"\[simulated [^\]]*\] ")


class Begun(NamedTuple):
    """A call without the beginning of its answer, and that. The call allows for the tokens of both parts."""

    call: Call
    text: str


def begun_in(call: Call) -> Begun | None:
    """The beginning of an answer in a call; None: the model is to begin."""
    call = as_chat(call)
    if call.endpoint is Endpoint.OLLAMA_GENERATE and call.body.get("raw"):
        found = _MARKER.search(call.body["prompt"])
        if found is None:
            return None
        body, text = {**call.body, "prompt": call.body["prompt"][: found.start()]}, call.body["prompt"][found.start() :]
    else:
        messages: Sequence[Any] = (call.body.get("messages") if call.endpoint.is_chat else None) or ({},)
        last = messages[-1]
        if not isinstance(last, Mapping) or last.get("role") != "assistant":
            return None
        body, text = {**call.body, "messages": messages[:-1]}, str(last.get("content") or "")
    return Begun(_with_room(replace(call, body=body), len(said_tokens(text))), text)


def go_on(begun: Begun, compose: Callable[[Call], Reply]) -> Reply | None:
    """What is left of the answer that `compose` gives to a call; None: it has another beginning."""
    for call in _asked(begun.call):
        reply = compose(call)
        rest = _behind(reply, begun.text)
        if rest is not None:
            return replace(reply, pieces=tuple(rest))
    return None


def _with_room(call: Call, tokens: int) -> Call:
    limit = sampling(call).get("num_predict")
    if not limit or limit <= 0:
        return call
    whole = int(limit) + tokens
    if call.endpoint.dialect is Dialect.OLLAMA:
        return replace(call, body={**call.body, "options": {**call.body["options"], "num_predict": whole}})
    names = [name for name in ("max_tokens", "max_completion_tokens") if call.body.get(name)]
    return replace(call, body={**call.body, **dict.fromkeys(names, whole)})


def _asked(call: Call) -> Iterator[Call]:
    """As it was asked; or as a prompt by itself, which Ollama makes the same conversation of."""
    yield call
    said = turns(call)
    endpoint = _PROMPTS.get(call.endpoint)
    if endpoint is not None and [turn.role for turn in said] in (["user"], ["system", "user"]):
        system: dict[str, Any] = {"system": said[0].text} if len(said) > 1 else {}
        body = {name: value for name, value in call.body.items() if name != "messages"}
        yield replace(call, endpoint=endpoint, body={**body, **system, "prompt": said[-1].text})


def _behind(reply: Reply, text: str) -> list[Piece] | None:
    """The pieces behind `text`, with which the reply must begin."""
    own, given = _MARKER.match(reply.pieces[0].text if reply.pieces else ""), _MARKER.match(text)
    # Simulated cards of other kinds begin with other markers, and say the same behind them.
    left = own[0] + text[given.end() :] if own and given else text
    for n, piece in enumerate(reply.pieces):
        if not left:
            return list(reply.pieces[n:])
        if not piece.text:
            return None
        if len(piece.text) > len(left):
            is_it = piece.text.startswith(left)
            return [replace(piece, text=piece.text[len(left) :]), *reply.pieces[n + 1 :]] if is_it else None
        if not left.startswith(piece.text):
            return None
        left = left[len(piece.text) :]
    return None if left else []
