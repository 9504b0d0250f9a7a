"""What bytes from outside may never do, as functions of bytes. `fuzz` looks for bytes that do it."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from orchestrator.core.cachekey import answer_key
from orchestrator.core.dialects.from_ollama import FromOllama, as_own
from orchestrator.core.dialects.gather import Gatherer
from orchestrator.core.dialects.outcome import Listener, read_answer, read_end, read_frames
from orchestrator.core.dialects.parse import is_load_request, parse_call, turns
from orchestrator.core.dialects.pictures import check_pictures
from orchestrator.core.dialects.provider_answer import ProviderTranslator
from orchestrator.core.dialects.translate import Translator
from orchestrator.core.errors import CallerError, InstanceError
from orchestrator.core.faq import question_of
from orchestrator.core.model import Call, Dialect, Endpoint, Engine
from orchestrator.core.privacy.texts import texts_of
from orchestrator.gateway.bodies import check_values
from orchestrator.gateway.hidden_usage import UsageHider
from orchestrator.gateway.orders import order_for
from orchestrator.gateway.relay import is_callers_mistake
from tests.gateway.asking import body_for
from tests.gateway.played import pool_of
from tests.security.ambiguous import HIDDEN, LAST, REFUSED, TAKEN
from tests.security.doors import Heard, heard, limits, statuses

CORPORA: Final = Path(__file__).with_name("corpora")
_ENDPOINTS: Final = tuple(Endpoint)
_POOLS: Final = (pool_of("m", [1]), pool_of("m", [1], engine=Engine.LLAMA_CPP))


def http(data: bytes) -> None:
    """A connection takes any bytes, in any pieces, to be the same requests, and answers none of those it refuses.

    The first byte says where the others are cut.
    """
    cut, sent = data[0] if data else 0, data[1:]
    if b"pgrade" in sent:
        return  # an offer is passed over where it comes in one piece
    whole, pieces = _run(heard(sent)), _run(heard(sent[:cut], sent[cut:]))
    assert whole.requests == pieces.requests, (whole.requests, pieces.requests)
    answers = [status for status in statuses(whole.written) if status != 100]
    assert len(answers) <= len(whole.requests) + 1
    for method, path, query, headers, _ in whole.requests:
        assert method.isascii()
        assert all(sign not in value for value in headers.values() for sign in (b"\r", b"\n", b"\0"))
        assert b"," not in headers.get(b"host", b"")
        assert "\r" not in query
        assert path


def body(data: bytes) -> None:
    """Any body is a call or a caller's mistake, and a call is the same once it has been written anew.

    The first byte says of which path.
    """
    endpoint, raw = _ENDPOINTS[data[0] % len(_ENDPOINTS)] if data else _ENDPOINTS[0], data[1:]
    with suppress(CallerError):
        check_values(raw)
        call = parse_call(endpoint, raw)
        check_pictures(call, 8)
        question = question_of(turns(call), call.body) or ""
        key = answer_key(tenant="", target="m", call=call, secret=b"s" * 32, question=question)
        texts_of(call.body)
        for pool in () if is_load_request(call) else _POOLS:
            order = order_for(call, pool, pool.instances[0], limits(), 0)
            if pool is _POOLS[0] and order.translation is None:
                _is_the_same(call, order.body, key, question)


def _is_the_same(call: Call, sent: bytes, key: str, question: str) -> None:
    again = parse_call(call.endpoint, sent)
    assert turns(again) == turns(call)
    assert (question_of(turns(again), again.body) or "") == question
    assert json.loads(sent).keys() <= {*call.body, "options", "stream_options"}
    assert key


def frames(data: bytes) -> None:
    """Whatever an instance says, it is an answer, an error or no answer; in any pieces the same.

    The first byte says of which path, the second where it is cut.
    """
    endpoint = _ENDPOINTS[data[0] % len(_ENDPOINTS)] if data else _ENDPOINTS[0]
    cut, said = data[1] if len(data) > 1 else 0, data[2:]
    for is_stream in (True, False):
        end = read_end(endpoint, is_stream, said)
        assert isinstance(end.is_whole, bool)
        read_answer(endpoint, is_stream, said)
        call = _call(endpoint, is_stream)
        for make in (Translator, Gatherer, ProviderTranslator):
            with suppress(CallerError, InstanceError):
                _told(make(call, "m"), said, cut)
        if endpoint.dialect is not Dialect.OLLAMA and endpoint.is_answered_in_words:
            with suppress(CallerError, InstanceError):
                _told(FromOllama(as_own(call), "m", _now, is_callers_mistake), said, cut)
    read_frames(endpoint, said)
    Listener(endpoint).feed(said)
    hider = UsageHider()
    assert hider.feed(said[:cut]) + hider.feed(said[cut:]) + hider.finish() is not None


def _call(endpoint: Endpoint, is_stream: bool) -> Call:
    return parse_call(endpoint, json.dumps(body_for(endpoint.value, "hi", stream=is_stream)).encode())


def _told(translation: Translator | FromOllama, said: bytes, cut: int) -> bytes:
    return translation.feed(said[:cut]) + translation.feed(said[cut:]) + translation.finish()


def _now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _run(hearing: Coroutine[None, None, Heard]) -> Heard:
    return _loop().run_until_complete(hearing)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"http": http, "body": body, "frames": frames}


def seeds(target: str) -> Iterator[bytes]:
    """Where to begin: what is kept of this target, and what its parts are made of."""
    yield from (path.read_bytes() for path in sorted((CORPORA / target).glob("*")))
    if target == "http":
        yield from (b"\x20" + each for each in (*REFUSED.values(), *LAST.values()))
        yield from (b"\x20" + request + HIDDEN for request, _ in TAKEN.values())
    else:
        for index, endpoint in enumerate(_ENDPOINTS):
            asked = json.dumps(body_for(endpoint.value, "hi", stream=True)).encode()
            yield bytes((index,)) + (asked if target == "body" else b"\x10" + asked)
