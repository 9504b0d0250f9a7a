"""The three questions `up` asks its own endpoint, so that one sees every tier answer, and `ollamactl ask`."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from orchestrator.core.errors import HostError

# For the connection alone: an answer may take as long as it takes, the endpoint has limits of its own.
CONNECT_TIMEOUT_S = 10.0
_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S)


class NobodyAnswersError(HostError):
    """No cluster answers at the endpoint."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as a client saw it. Tokens are what the instance counted, seconds what the client waited."""

    question: str
    text: str
    model: str
    tier: str
    instance: str
    cache: str
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    is_simulated: bool


# Short answers: a newcomer waits for them, and the built-in engine is slow.
FIRST_TOKENS = 24
CACHED_QUESTION = "şehir içi hız limiti"
SMALL_QUESTION = "What is the capital of France?"
FULL_QUESTION = (
    "Prove step by step that the sum of two odd numbers is even, then write a Python function that checks it."
)


async def ask(
    endpoint: str,
    question: str,
    *,
    model: str = "auto",
    key: str = "",
    tokens: int | None = None,
    is_fresh: bool = False,
) -> Reply:
    """One question, whole; `is_fresh`: not out of the answer cache, nor into it.

    Raises HostError with the endpoint's own words where it is refused, NobodyAnswersError where nobody is there.
    """
    options = {"options": {"num_predict": tokens}} if tokens else {}
    body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": False, **options}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if is_fresh:
        headers["Cache-Control"] = "no-store"
    began_s = time.perf_counter()
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=_TIMEOUT) as http,
            http.post(f"http://{endpoint}/api/chat", data=orjson.dumps(body)) as reply,
        ):
            raw = await reply.read()
            if reply.status != 200:
                told = "; name one in OLLAMACTL_KEY" if reply.status == 401 else ""
                raise HostError(f"{endpoint} answered {reply.status}: {own_words(raw)}{told}")
            return _reply(question, orjson.loads(raw), reply.headers, time.perf_counter() - began_s)
    except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as why:
        raise NobodyAnswersError(f"{endpoint} does not answer: {reason(why)}; is `ollamactl up` running?") from why


def own_words(raw: bytes) -> str:
    """An error body's text, as it was worded; of anything else its beginning."""
    try:
        return str(orjson.loads(raw)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return raw[:200].decode("utf-8", "replace").strip()


def reason(why: Exception) -> str:
    """Why a request failed, in few words: aiohttp's own name the socket twice and TLS where there is none."""
    if isinstance(why, aiohttp.ClientConnectorError):
        return os.strerror(why.os_error.errno) if why.os_error.errno else str(why.os_error)
    if isinstance(why, TimeoutError):
        return "no answer in time"
    return str(why) or type(why).__name__


def _reply(question: str, told: dict[str, Any], headers: Any, seconds: float) -> Reply:
    return Reply(
        question=question,
        text=told["message"]["content"],
        model=told.get("model", ""),
        tier=headers.get("X-Tier", ""),
        instance=headers.get("X-Instance", ""),
        cache=headers.get("X-Cache", "").partition(";")[0],
        seconds=seconds,
        prompt_tokens=told.get("prompt_eval_count", 0),
        completion_tokens=told.get("eval_count", 0),
        is_simulated="X-Simulated" in headers,
    )
