"""A caller's word on an answer that came from the cache: `POST /api/feedback` with the hit's `X-Cache-Key`.

Whoever was given a hit may call it wrong, and nobody else: the key carries a receipt that only its caller could have.
"""

from __future__ import annotations

import hmac
from typing import Any, Final
from urllib.parse import unquote

import orjson

from orchestrator.core.errors import CallerError
from orchestrator.gateway.answer_cache import AnswerCache
from orchestrator.gateway.identity import Caller
from orchestrator.store.schema import pool_answer, route_answer

_FORM: Final = 'a JSON object is wanted: {"key": the answer\'s X-Cache-Key, "verdict": "wrong"}'
_PLACES: Final = {"r": route_answer, "p": pool_answer}


class Feedback:
    """Reports of wrong hits."""

    def __init__(self, cache: AnswerCache) -> None:
        self._cache = cache

    async def take(self, body: bytes, caller: Caller) -> dict[str, Any]:
        """What was done about it. Raises CallerError 400, 404, and StoreError where it could not be done."""
        name = self._given(_key(body), caller)
        kind, _, rest = name.partition(".")
        if kind == "f":
            how, _, entry = rest.partition(".")
            await self._cache.report_wrong(f"faq:{how}", "", entry)
            return {"status": "counted", "layer": "faq", "entry": entry}
        digest, _, scope = rest.partition(".")
        if kind == "a":
            asked, _, route = scope.partition(".")
            await self._cache.report_not_alike(caller.name, unquote(route), digest, asked)
            return {"status": "dropped", "layer": "paraphrase"}
        await self._cache.report_wrong("exact", _PLACES[kind](unquote(scope), digest), "")
        return {"status": "dropped", "layer": "exact"}

    def _given(self, key: str, caller: Caller) -> str:
        """The name of what this caller was given under `key`."""
        name = key.partition(".")[2]
        if not name or not hmac.compare_digest(self._cache.receipt(caller.name, name).encode(), key.encode()):
            raise CallerError(404, "no answer from the cache was given to this API key under this key")
        return name


def _key(body: bytes) -> str:
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError as why:
        raise CallerError(400, f"not JSON ({why}); {_FORM}") from why
    if not isinstance(told, dict) or not isinstance(told.get("key"), str) or told.get("verdict") != "wrong":
        raise CallerError(400, _FORM)
    key: str = told["key"]
    return key
