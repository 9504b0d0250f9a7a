"""Answers as clients read them: what was said, whether that is all, or how it broke; and what was to be said.

A played instance's answer is decided by its question alone, so that whoever knows the question knows the answer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.model import Endpoint
from orchestrator.nodes.simulator.answers import compose
from orchestrator.nodes.simulator.tokens import prompt_tokens
from tests.chaos.history import Called, Sent

MARKER = "[simulated RTX 4090] "


class NotAnAnswer(ValueError):
    """Bytes that no client can read; the text says which."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a body says. `error`: a proper one, and the last. `is_whole`: it says itself that this is all."""

    text: str
    is_whole: bool
    error: str = ""


def told_by(called: Called) -> Told:
    """What came of an answer with status 200. Raises NotAnAnswer."""
    if not called.sent.is_stream:
        return _document(called)
    frames = list(_frames(called))
    text, is_whole, error = "", False, ""
    for frame in frames:
        if is_whole or error:
            raise NotAnAnswer(f"something came after the end: {frame!r}")
        if frame == "[DONE]":
            is_whole = True
            continue
        if "error" in frame:
            error = str(frame["error"])
            continue
        text += _text(frame)
        is_whole = frame.get("done") is True
    return Told(text, is_whole, error)


def _document(called: Called) -> Told:
    try:
        told = orjson.loads(called.body)
    except orjson.JSONDecodeError as why:
        if called.framing.value != "whole":
            return Told("", is_whole=False)
        raise NotAnAnswer(f"no JSON: {called.body[:200]!r}") from why
    if called.sent.path.startswith("/v1/"):
        choice = told["choices"][0]
        return Told(choice["message"]["content"], choice["finish_reason"] in ("stop", "length"))
    return Told(_text(told), told.get("done") is True)


def _frames(called: Called) -> Iterator[Any]:
    """Every frame that came whole: the rest of a connection that was cut is no frame."""
    end = b"\n\n" if called.sent.path.startswith("/v1/") else b"\n"
    *frames, rest = called.body.split(end)
    if rest and called.framing.value == "whole":
        raise NotAnAnswer(f"the last frame has no end: {rest[-200:]!r}")
    for frame in frames:
        data = frame.removeprefix(b"data: ") if end == b"\n\n" else frame
        if data == b"[DONE]":
            yield "[DONE]"
            continue
        try:
            told = orjson.loads(data)
        except orjson.JSONDecodeError as why:
            raise NotAnAnswer(f"no JSON: {data[:200]!r}") from why
        if not isinstance(told, dict):
            raise NotAnAnswer(f"no frame: {data[:200]!r}")
        yield told


def _text(frame: Mapping[str, Any]) -> str:
    if "choices" in frame:
        return "".join(each["delta"].get("content") or "" for each in frame["choices"])
    if "message" in frame:
        return str(frame["message"].get("content", ""))
    return str(frame.get("response", ""))


def meant(sent: Sent, model: str) -> tuple[str, ...]:
    """What the played model says to a call, from its first word to its last.

    An answer that the cache may give is one for all dialects, and was made for the first who asked.
    """
    bodies = _in_all_dialects(sent) if sent.is_cacheable else [(sent.path, sent.body)]
    return tuple(_meant(path, orjson.dumps({**body, "model": model})) for path, body in bodies)


def _in_all_dialects(sent: Sent) -> list[tuple[str, Mapping[str, Any]]]:
    """The same question and the same options on every path."""
    messages = sent.body.get("messages") or [{"role": "user", "content": sent.body["prompt"]}]
    options = sent.body.get("options") or {
        "num_predict": sent.body["max_tokens"],
        "temperature": sent.body["temperature"],
    }
    v1 = {"max_tokens": options["num_predict"], "temperature": options["temperature"]}
    return [
        ("/api/chat", {"messages": messages, "options": options}),
        ("/api/generate", {"prompt": messages[-1]["content"], "options": options}),
        ("/v1/chat/completions", {"messages": messages, **v1}),
    ]


@functools.lru_cache(maxsize=8192)
def _meant(path: str, raw: bytes) -> str:
    call = parse_call(Endpoint(path), raw)
    prompt = prompt_tokens(call)
    reply = compose(call, MARKER, ("completion",), prompt, len(prompt))
    return "".join(piece.text for piece in reply.pieces)
