"""A caller's word on an answer: `POST /api/feedback` with its `X-Cache-Key`, or a route's `X-Answer-Key`.

Whoever was given a hit may call it wrong, and nobody else: the key carries a receipt that only its caller could have.
What a tier of a route has answered may be called right, too, and is counted; once.
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

import orjson

from orchestrator import telemetry
from orchestrator.core.errors import CallerError
from orchestrator.gateway.answer_cache import AnswerCache
from orchestrator.gateway.identity import Caller
from orchestrator.gateway.trace import Trace
from orchestrator.store import routed
from orchestrator.store.connection import Connection
from orchestrator.store.schema import pool_answer, route_answer

_FORM: Final = (
    'a JSON object is wanted: {"key": the answer\'s X-Cache-Key, "verdict": "wrong"}, '
    'or {"key": a route\'s X-Answer-Key, "verdict": "right" or "wrong"}'
)
_VERDICTS: Final = ("right", "wrong")
_TIERS: Final = "t"  # the kind of an X-Answer-Key
_PLACES: Final = {"r": route_answer, "p": pool_answer}


class Feedback:
    """Reports of wrong hits, and ratings of what tiers answered."""

    def __init__(self, cache: AnswerCache, connection: Connection) -> None:
        self._cache, self._connection = cache, connection

    async def take(self, body: bytes, caller: Caller) -> dict[str, Any]:
        """What was done about it. Raises CallerError 400, 404, and StoreError where it could not be done."""
        key, verdict = _told(body)
        if verdict != "wrong" and not key.partition(".")[2].startswith(f"{_TIERS}."):
            raise CallerError(400, _FORM)
        name = self._given(key, caller)
        kind, _, rest = name.partition(".")
        if kind == _TIERS:
            return await self._rate(rest.partition(",")[0], key, verdict)
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

    async def _rate(self, route: str, key: str, verdict: str) -> dict[str, Any]:
        day, receipt = datetime.now(UTC).date().isoformat(), key.partition(".")[0]
        if not await routed.rate(self._connection, route, day, receipt, is_right=verdict == "right"):
            return {"status": "known", "layer": "tier"}
        telemetry.TALLY.count(telemetry.RATED, (route, verdict))
        return {"status": "counted", "layer": "tier"}

    def _given(self, key: str, caller: Caller) -> str:
        """The name of what this caller was given under `key`."""
        name = key.partition(".")[2]
        if not name or not hmac.compare_digest(self._cache.receipt(caller.name, name).encode(), key.encode()):
            raise CallerError(404, "no answer was given to this API key under this key")
        return name


def make_ratable(trace: Trace, cache: AnswerCache, route: str) -> None:
    """The answer of whichever tier it will be says what its caller may rate it by."""

    trace.answer_receipt = lambda: cache.receipt(trace.caller.name, f"{_TIERS}.{route},{trace.request_id}")


def _told(body: bytes) -> tuple[str, str]:
    """The key, and what is said of its answer."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError as why:
        raise CallerError(400, f"not JSON ({why}); {_FORM}") from why
    if not isinstance(told, dict) or not isinstance(told.get("key"), str) or told.get("verdict") not in _VERDICTS:
        raise CallerError(400, _FORM)
    return told["key"], told["verdict"]
