"""One real answer of each model through the endpoint: what a caller would get, asked for before anybody says "done"."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp
import orjson

from orchestrator.app.questions import FIRST_TOKENS, SMALL_QUESTION, ask, own_words, reason
from orchestrator.core.errors import HostError

EMBEDDED = "otoyol hız limiti"
# A model that serves answers a short question in seconds; one that does not within this does not answer.
ANSWERS_WITHIN_S = 120.0


async def check_answers(endpoint: str, pools: Mapping[str, bool], key: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ask each of `pools` (True: it embeds), all at once; in words, those that answered and those that did not."""
    told = await asyncio.gather(*(_asked(endpoint, pool, key, embeds=embeds) for pool, embeds in pools.items()))
    return tuple(text for is_good, text in told if is_good), tuple(text for is_good, text in told if not is_good)


async def _asked(endpoint: str, pool: str, key: str, *, embeds: bool) -> tuple[bool, str]:
    try:
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            if embeds:
                return True, await _embedded(endpoint, pool, key)
            reply = await ask(endpoint, SMALL_QUESTION, model=pool, key=key, tokens=FIRST_TOKENS, is_fresh=True)
    except TimeoutError:
        return False, f"{pool} did not answer within {ANSWERS_WITHIN_S:g} s"
    except HostError as why:
        return False, f"{pool} did not answer: {why}"
    text = " ".join(reply.text.split())
    if not reply.completion_tokens:
        return False, f"{pool} answered nothing (on {reply.instance})"
    return True, f"{pool} answers on {reply.instance} after {reply.seconds * 1e3:.0f} ms: {text}"


async def _embedded(endpoint: str, pool: str, key: str) -> str:
    """Raises HostError."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = orjson.dumps({"model": pool, "input": EMBEDDED})
    try:
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.post(f"http://{endpoint}/api/embed", data=body) as reply,
        ):
            raw = await reply.read()
            if reply.status != 200:
                raise HostError(f"{endpoint} answered {reply.status}: {own_words(raw)}")
            width = len(orjson.loads(raw)["embeddings"][0])
    except (aiohttp.ClientError, orjson.JSONDecodeError, LookupError) as why:
        raise HostError(f"{endpoint}: {reason(why)}") from why
    return f"{pool} embeds in {width} dimensions, on {reply.headers.get('X-Instance', '')}"
