"""Whether outside providers would answer: each is asked for its models, and each model of a tier for one short answer.

What is sent is the same sentence always, over the lines that calls take. No finding holds a key.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from orchestrator.core.dialects.provider_answer import Blame, Meter, Used, fault_of
from orchestrator.core.dialects.provider_request import to_provider
from orchestrator.core.errors import InstanceError
from orchestrator.core.model import Call, Endpoint
from orchestrator.core.target import Price, Provider
from orchestrator.gateway.outside import CHAT_PATH
from orchestrator.gateway.outside_answer import masked
from orchestrator.gateway.outside_line import OutsideConnections, fields_of
from orchestrator.gateway.upstream import Exchange, Stage

QUESTION: Final = "Answer with the word ready."
# Enough for one that thinks first, and a thousandth of a cent.
ANSWER_TOKENS: Final = 64
ANSWERS_WITHIN_S: Final = 60.0
# Of an answer's first words.
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of a provider or one of its models, in words."""

    name: str
    is_good: bool
    text: str


async def check(provider: Provider, models: Iterable[tuple[str, Price | None]]) -> AsyncIterator[Finding]:
    """Ask a provider; its list of models is no proof of a key, its answers are."""
    try:
        connections = OutsideConnections(provider)
    except InstanceError as why:
        yield Finding(provider.name, False, why.message)
        return
    try:
        asked = dict(models)
        yield await _listed(provider, connections, tuple(asked))
        for model, price in asked.items():
            yield await _answered(provider, connections, model, price)
    finally:
        connections.close()


async def _listed(provider: Provider, connections: OutsideConnections, models: tuple[str, ...]) -> Finding:
    """Whether it is there, and what it says it has. Not every one tells."""
    try:
        status, body, _ = await _ask(provider, connections, f"GET {provider.prefix}/models", b"")
    except InstanceError as why:
        return Finding(provider.name, False, why.message)
    if status in (404, 405, 501):
        return Finding(provider.name, True, "is there, and does not tell its models")
    if status != 200:
        return Finding(provider.name, False, _refused(status, body, provider))
    known = _names(body)
    missing = [
        model for model in models if not any(each.rpartition("/")[2] == model.rpartition("/")[2] for each in known)
    ]
    without = f"; not among them: {', '.join(missing)}" if missing and known else ""
    return Finding(provider.name, True, f"is there, with {len(known)} models{without}")


async def _answered(provider: Provider, connections: OutsideConnections, model: str, price: Price | None) -> Finding:
    name = f"{provider.name}/{model}"
    said = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": ANSWER_TOKENS}
    body = to_provider(Call(Endpoint.OPENAI_CHAT, model, False, said), model, provider.manners)
    try:
        status, answer, took_s = await _ask(provider, connections, f"POST {provider.prefix}{CHAT_PATH}", body)
    except InstanceError as why:
        return Finding(name, False, why.message)
    if status != 200:
        return Finding(name, False, _refused(status, answer, provider))
    text, used = _read(answer)
    if text is None:
        return Finding(name, False, "answered 200, and what is no answer")
    cost = "" if price is None else f", ${price.of(used.prompt, used.completion):.6f}"
    words = " ".join(text.split())[:_SHOWN] or "no words, only thoughts"
    counted = f"{used.prompt} + {used.completion} tokens{cost}"
    return Finding(name, True, f"answers after {took_s * 1e3:.0f} ms ({counted}): {words}")


async def _ask(provider: Provider, connections: OutsideConnections, line: str, body: bytes) -> tuple[int, bytes, float]:
    """Status, body and seconds of one exchange. Raises InstanceError."""
    began_s = time.perf_counter()
    exchange: Exchange | None = connections.idle(provider.host, provider.port)
    if exchange is None:
        exchange = await connections.connect(provider.name, provider.host, provider.port)
    framed = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    try:
        exchange.send(f"{line} HTTP/1.1\r\n{fields_of(provider)}{framed}\r\n".encode("ascii"), body, ANSWERS_WITHIN_S)
        await exchange.until(Stage.DONE)
        return exchange.head.status, exchange.body(), time.perf_counter() - began_s
    finally:
        connections.give_back(provider.host, provider.port, exchange)


def _refused(status: int, body: bytes, provider: Provider) -> str:
    """What its error status means to the operator."""
    fault = fault_of(Endpoint.OPENAI_CHAT, status, masked(body, provider))
    words = f": {fault.words}" if fault.words and status != 401 else ""
    what = {
        Blame.KEY: f"refuses the key, or its account (see providers.{provider.name}.key)",
        Blame.MODEL: "does not know this model, or this address",
        Blame.BUSY: "takes no more calls for now",
        Blame.PROVIDER: "fails",
        Blame.CALLER: "refuses what was asked",
    }[fault.blame]
    return f"{what} ({status}){words}"


def _names(body: bytes) -> tuple[str, ...]:
    """The models in its list; none where that is no list we can read."""
    try:
        listed: Any = orjson.loads(body)
        return tuple(str(each["id"]) for each in listed["data"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return ()


def _read(body: bytes) -> tuple[str | None, Used]:
    """The answer's text and counts; None for what is no answer."""
    meter = Meter()
    try:
        answer: Any = orjson.loads(body)
        meter.read(answer)
        text = answer["choices"][0]["message"].get("content") or ""
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return None, Used()
    return text if isinstance(text, str) else orjson.dumps(text).decode(), meter.used or Used()
