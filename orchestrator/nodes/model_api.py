"""What the controller asks of an Ollama about the models on its disk, for somebody who wants them changed.

Pulling, pushing and creating are told of line by line; Ollama gives them up where the one who asked leaves, and that is
the controller. Whatever goes wrong is a ModelWorkError, in Ollama's words where it has said some.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import orjson

from orchestrator.core.chores import SUCCESS, ChoreKind
from orchestrator.core.errors import InstanceError
from orchestrator.core.model import Instance
from orchestrator.core.tls_words import tls_trouble
from orchestrator.nodes.engine_api import LOAD_TIMEOUT_S, PROBE_TIMEOUT_S, PULL_SILENCE_S
from orchestrator.nodes.tls import Contexts

_METHODS: Final = {ChoreKind.DELETE: "DELETE"}
# A copy or a deletion is a few files' names; a file of many gigabytes takes a while to go on some file systems.
_FILES_S: Final = 120.0
_LINE_BYTES: Final = 2**20


class ModelWorkError(InstanceError):
    """It is not done there. `status`: Ollama's, 0 where it did not answer."""

    def __init__(self, at: Instance, message: str, status: int = 0) -> None:
        super().__init__(at.id, message, is_unreachable=not status)
        self.status = status


class ModelApi:
    """One HTTP session for all servers. Its calls take an `Instance` for the address."""

    def __init__(self, contexts: Contexts | None = None) -> None:
        """`contexts`: what those that want TLS are asked with."""
        self._contexts = contexts or Contexts()
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True), read_bufsize=_LINE_BYTES
        )

    async def close(self) -> None:
        await self._http.close()

    async def work(self, at: Instance, kind: ChoreKind, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Have it done there; what it tells meanwhile. Raises ModelWorkError where it ends otherwise than done."""
        silence_s = LOAD_TIMEOUT_S if kind is ChoreKind.CREATE else PULL_SILENCE_S
        limits = aiohttp.ClientTimeout(total=None, sock_read=silence_s, sock_connect=PROBE_TIMEOUT_S)
        if not kind.has_progress:
            limits = aiohttp.ClientTimeout(total=_FILES_S, sock_connect=PROBE_TIMEOUT_S)
        last = "nothing"
        async with self._answered(at, _METHODS.get(kind, "POST"), f"/api/{kind}", body, limits) as reply:
            if reply.status != 200:
                raise ModelWorkError(at, _reason(await reply.read()), reply.status)
            async for raw in reply.content:
                line = _object(raw)
                if "error" in line:  # an error after the headers comes as a line
                    raise ModelWorkError(at, str(line["error"]), 500)
                last = str(line.get("status", ""))
                yield line
        if kind.has_progress and last != SUCCESS:
            raise ModelWorkError(at, f"it ended early, after: {last}", 500)

    async def has_model(self, at: Instance, name: str) -> bool:
        """Whether a model of that name is there. Raises ModelWorkError."""
        return await self._is_there(at, "POST", "/api/show", {"model": name})

    async def has_blob(self, at: Instance, digest: str) -> bool:
        """Whether that file of a model is there. Raises ModelWorkError."""
        return await self._is_there(at, "HEAD", f"/api/blobs/{digest}", None)

    async def _is_there(self, at: Instance, method: str, path: str, body: Mapping[str, Any] | None) -> bool:
        limits = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
        async with self._answered(at, method, path, body, limits) as reply:
            if reply.status not in (200, 404):
                raise ModelWorkError(at, f"{path} answered {reply.status}: {_reason(await reply.read())}", reply.status)
            return reply.status == 200

    @asynccontextmanager
    async def _answered(
        self, at: Instance, method: str, path: str, body: Mapping[str, Any] | None, limits: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        data = None if body is None else orjson.dumps(body)
        try:
            origin, tls = self._contexts.spoken(at.id, at.host, at.port, at.tls_name)
        except InstanceError as why:
            raise ModelWorkError(at, why.message) from why
        try:
            async with self._http.request(
                method, origin + path, data=data, allow_redirects=False, timeout=limits, **tls
            ) as reply:
                yield reply
        except TimeoutError as why:
            raise ModelWorkError(at, f"{path}: nothing was heard of it any more") from why
        except (aiohttp.ClientError, ValueError) as why:  # ValueError: a line longer than any of Ollama's
            raise ModelWorkError(at, f"{path}: {tls_trouble(why) or str(why) or type(why).__name__}") from why


def _object(line: bytes) -> dict[str, Any]:
    try:
        read = orjson.loads(line)
    except orjson.JSONDecodeError:
        read = None
    return read if isinstance(read, dict) else {"error": f"a line that is no JSON object: {line[:80]!r}"}


def _reason(body: bytes) -> str:
    """The body of an error: Ollama's JSON, or whatever it is."""
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        read = None
    told = read.get("error") if isinstance(read, dict) else body.decode(errors="replace").strip()
    return str(told or "no reason given")
