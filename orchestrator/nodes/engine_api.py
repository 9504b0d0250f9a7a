"""What the controller asks of an instance over HTTP: is it there, has it its model, pull it, load it.

A model's load and pull are the cluster's own requests: a client that leaves can abort neither (OLLAMA.md 1.7).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import aiohttp
import orjson

from orchestrator.core.errors import InstanceError
from orchestrator.core.model import Engine, Instance

PROBE_TIMEOUT_S = 5.0
# Without a line of progress for this long, a pull or load has hung (Ollama's own OLLAMA_LOAD_TIMEOUT is 5 min).
SILENCE_TIMEOUT_S = 300.0


class EngineApi:
    """One HTTP session for all instances of the controller."""

    def __init__(self) -> None:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S))

    async def close(self) -> None:
        await self._http.close()

    async def version(self, instance: Instance) -> str:
        """The engine's version: it answers. Raises InstanceError while it does not."""
        if instance.engine is Engine.LLAMA_CPP:
            await self._get(instance, "/health")  # 503 while the model loads
            return "llama.cpp"
        return str((await self._get(instance, "/api/version")).get("version", ""))

    async def has_model(self, instance: Instance) -> bool:
        """Whether the weights are on the instance's disk. llama.cpp is started with its weights."""
        if instance.engine is Engine.LLAMA_CPP:
            return True
        async with self._post(instance, "/api/show", {"model": instance.upstream_model}, PROBE_TIMEOUT_S) as reply:
            return reply.status == 200

    async def is_loaded(self, instance: Instance) -> bool:
        """Whether the model is in memory, as far as the engine tells."""
        if instance.engine is Engine.LLAMA_CPP:
            return True
        listed = (await self._get(instance, "/api/ps")).get("models") or []
        names = (instance.upstream_model, f"{instance.upstream_model}:latest")
        return any(each.get("model") in names for each in listed)

    async def describe(self, instance: Instance) -> dict[str, Any]:
        """The engine's own `/api/tags` and `/api/ps` entries and `/api/show` body of its model. Raises InstanceError."""
        tags = (await self._get(instance, "/api/tags")).get("models") or []
        running = (await self._get(instance, "/api/ps")).get("models") or []
        async with self._post(instance, "/api/show", {"model": instance.upstream_model}, PROBE_TIMEOUT_S) as reply:
            show = orjson.loads(await reply.read())
        names = (instance.upstream_model, f"{instance.upstream_model}:latest")
        return {
            "tags": next((each for each in tags if each.get("model") in names), {}),
            "ps": next((each for each in running if each.get("model") in names), {}),
            "show": show,
        }

    async def pull(self, instance: Instance, on_progress: Callable[[str, int, int], None]) -> None:
        """Have the instance fetch its model; `on_progress` gets status, bytes done and bytes in all. Raises InstanceError."""
        body = {"model": instance.upstream_model, "stream": True}
        async with self._post(instance, "/api/pull", body, None) as reply:
            if reply.status != 200:
                raise InstanceError(instance.id, f"pull answered {reply.status}: {(await reply.text())[:300]}")
            async for line in reply.content:
                event = orjson.loads(line)
                if "error" in event:  # an error after the headers comes as a line (OLLAMA.md 1.17)
                    raise InstanceError(instance.id, f"pull of {instance.upstream_model}: {event['error']}")
                on_progress(event.get("status", ""), event.get("completed", 0), event.get("total", 0))

    async def load(self, instance: Instance, *, is_embedding: bool) -> None:
        """Load the model for good, with the pool's own context. Raises InstanceError."""
        if instance.engine is Engine.LLAMA_CPP:
            return
        options = {"num_ctx": instance.context}
        body: dict[str, Any] = {"model": instance.upstream_model, "keep_alive": -1, "options": options}
        path = "/api/generate"
        if is_embedding:
            path, body = "/api/embed", {**body, "input": "warm"}
        async with self._post(instance, path, body, None) as reply:
            if reply.status != 200:
                raise InstanceError(instance.id, f"load answered {reply.status}: {(await reply.text())[:300]}")
            await reply.read()

    async def _get(self, instance: Instance, path: str) -> dict[str, Any]:
        try:
            async with self._http.get(f"http://{instance.host}:{instance.port}{path}") as reply:
                body = await reply.read()
                if reply.status != 200:
                    raise InstanceError(instance.id, f"{path} answered {reply.status}")
                return cast(dict[str, Any], orjson.loads(body))
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as why:
            raise InstanceError(instance.id, f"{path}: {type(why).__name__} {why}".rstrip()) from why

    def _post(self, instance: Instance, path: str, body: dict[str, Any], total_s: float | None) -> _Posted:
        timeout = aiohttp.ClientTimeout(total=total_s, sock_read=SILENCE_TIMEOUT_S, sock_connect=PROBE_TIMEOUT_S)
        url = f"http://{instance.host}:{instance.port}{path}"
        return _Posted(instance, self._http.post(url, data=orjson.dumps(body), timeout=timeout))


class _Posted:
    """A request under way whose transport errors come out as InstanceError."""

    def __init__(self, instance: Instance, request: Any) -> None:
        self._instance, self._request = instance, request

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            return cast(aiohttp.ClientResponse, await self._request.__aenter__())
        except (aiohttp.ClientError, TimeoutError) as why:
            raise InstanceError(self._instance.id, f"{type(why).__name__} {why}".rstrip()) from why

    async def __aexit__(self, kind: Any, why: BaseException | None, trace: Any) -> None:
        await self._request.__aexit__(kind, why, trace)
        if isinstance(why, aiohttp.ClientError | asyncio.TimeoutError):
            raise InstanceError(self._instance.id, f"{type(why).__name__} {why}".rstrip()) from why
