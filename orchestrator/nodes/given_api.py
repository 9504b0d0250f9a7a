"""What the controller asks of a server that somebody else runs: what it is, what it has, what of that is in memory.

Nothing is pulled, created or deleted by this (`model_api` does). A model is loaded and unloaded, as any call could; for
how long it then stays in memory is the server's own setting. Whatever goes wrong is an InstanceError.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import aiohttp
import orjson

from orchestrator.core.catalogue import is_cloud_model
from orchestrator.core.errors import InstanceError
from orchestrator.core.model import Engine, Instance, ModelShape
from orchestrator.core.slots import ANSWER_TOKENS, Told
from orchestrator.nodes.engine_api import LOAD_TIMEOUT_S, PROBE_TIMEOUT_S, EngineApi

_NO_SUCH_PATH = (404, 405, 501)
_LONGEST_REASON = 300
_PROBE = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
_SHORT_ANSWER = aiohttp.ClientTimeout(total=120.0, sock_connect=PROBE_TIMEOUT_S)
# What lists show of a model where a server leaves it out; clients read these fields.
_USUAL_TAGS: Final[Mapping[str, Any]] = {"modified_at": "1970-01-01T00:00:00Z", "size": 0, "digest": "", "details": {}}


@dataclass(frozen=True, slots=True)
class Listed:
    """One model that a server has. `shape` of llama.cpp's, which has no /api/show: as far as it tells."""

    name: str  # as the server spells it
    tags: Mapping[str, Any] = field(default_factory=dict)  # what /api/tags says of it
    remote_host: str = ""  # who serves it in truth: it is not on this server
    is_embedding: bool | None = None  # None: not told
    shape: ModelShape | None = None
    abilities: tuple[str, ...] = ()  # of llama.cpp's, in Ollama's words

    @property
    def digest(self) -> str:
        return str(self.tags.get("digest", ""))


class GivenApi(EngineApi):
    """Its calls take an `Instance` for the address, and for the model where one is concerned."""

    async def engine_of(self, at: Instance) -> Engine:
        """Whether it is Ollama or llama.cpp's server."""
        if await self._got(at, "/api/version") is not None:
            return Engine.OLLAMA
        if await self._says_health(at):
            return Engine.LLAMA_CPP
        if await self._got(at, "/api/tags") is not None:
            return Engine.OLLAMA
        raise InstanceError(at.id, "answers neither as Ollama (/api/version) nor as llama.cpp's server (/health)")

    async def lives(self, at: Instance) -> str:
        """Its version, '' where it does not say: it answers."""
        if at.engine is Engine.LLAMA_CPP:
            return await self.version(at)
        return str((await self._got(at, "/api/version") or {}).get("version", ""))

    async def listed(self, at: Instance) -> tuple[Listed, ...]:
        """The models it has."""
        if at.engine is Engine.LLAMA_CPP:
            found = _of_llama_cpp(await self._got(at, "/v1/models") or {})
            # Of several it would tell what itself can do, which passes calls on to them.
            abilities = await self.abilities(at) if len(found) == 1 else ()
            return tuple(replace(each, abilities=abilities) for each in found)
        return tuple(map(_of_ollama, _named((await self._got(at, "/api/tags") or {}).get("models"))))

    async def in_memory(self, at: Instance) -> Mapping[str, Mapping[str, Any]] | None:
        """What /api/ps tells, by model; None where it tells nothing: what it loads and when is its own affair."""
        told = await self._got(at, "/api/ps") if at.engine is Engine.OLLAMA else None
        return None if told is None else {_name(each): each for each in _named(told.get("models"))}

    async def slots_and_context(self, at: Instance) -> tuple[int, int]:
        """Slots and the tokens of one, 0 where it does not tell. Ollama tells neither."""
        told = await self._got(at, "/props") or {} if at.engine is Engine.LLAMA_CPP else {}
        settings = told.get("default_generation_settings")
        return _whole(told.get("total_slots")), _whole(settings.get("n_ctx")) if isinstance(settings, dict) else 0

    async def shown(self, at: Instance) -> dict[str, Any]:
        """/api/show of the model, without its tensors; {} where it does not tell."""
        if at.engine is Engine.LLAMA_CPP:
            return {}
        status, told = await self._ask(at, "/api/show", {"model": at.upstream_model})
        return {name: value for name, value in told.items() if name != "tensors"} if status == 200 else {}

    async def load_as_it_is(self, at: Instance, *, is_embedding: bool) -> None:
        """Load the model with the server's own context and for its own time: calls that name neither then fit."""
        body: dict[str, Any] = {"model": at.upstream_model}
        path, more = ("/api/embed", {"input": "warm"}) if is_embedding else ("/api/generate", {"stream": False})
        limits = aiohttp.ClientTimeout(total=LOAD_TIMEOUT_S, sock_connect=PROBE_TIMEOUT_S)
        status, told = await self._ask(at, path, {**body, **more}, limits)
        if status != 200 or "error" in told:
            raise InstanceError(at.id, f"load answered {status}: {str(told.get('error', ''))[:_LONGEST_REASON]}")

    async def told(self, at: Instance, number: int) -> Told:
        """When a short answer of the model begins and ends; read to its end, whatever comes.

        No option that would load the model anew, no template, and any token as likely as another: what it says does
        not matter, but it may neither come to its end soon nor repeat itself, for which Ollama would cut it.
        """
        any_token = {"temperature": 100.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": number}
        options = {"num_predict": ANSWER_TOKENS, **any_token}
        body = {"model": at.upstream_model, "prompt": f"{number} 1 2 3", "raw": True, "options": options}
        first_s, tokens = 0.0, 0
        async with self._answered(at, "/api/generate", body, _SHORT_ANSWER) as reply:
            async for line in reply.content:
                tokens += 1
                first_s = first_s or time.monotonic()
                if b'"error"' in line and (error := _error_in(line)):
                    raise InstanceError(at.id, f"a short answer failed: {error[:_LONGEST_REASON]}")
        return Told(first_s, time.monotonic(), tokens)

    @asynccontextmanager
    async def _answered(
        self,
        instance: Instance,
        path: str,
        body: dict[str, Any] | None = None,
        limits: aiohttp.ClientTimeout = _PROBE,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """As it is elsewhere; that nobody listens is said in few words, because it stands in `status` for long."""
        try:
            async with super()._answered(instance, path, body, limits) as reply:
                yield reply
        except InstanceError as why:
            cause = why.__cause__
            if not isinstance(cause, aiohttp.ClientConnectorError) or isinstance(cause, aiohttp.ClientSSLError):
                raise
            reason = cause.os_error
            said = os.strerror(reason.errno) if reason.errno and reason.errno > 0 else str(reason)
            raise InstanceError(instance.id, f"no connection: {said}", is_unreachable=True) from why

    async def _says_health(self, at: Instance) -> bool:
        async with self._answered(at, "/health") as reply:
            return reply.status in (200, 503)  # 503 while its model loads

    async def _got(self, at: Instance, path: str) -> dict[str, Any] | None:
        """What it answers there; None where it has no such path."""
        async with self._answered(at, path) as reply:
            body = await reply.read()
        if reply.status in _NO_SUCH_PATH:
            return None
        if reply.status != 200:
            raise InstanceError(
                at.id, f"{path} answered {reply.status}: {body[:_LONGEST_REASON].decode(errors='replace')}"
            )
        try:
            told = orjson.loads(body)
        except orjson.JSONDecodeError as why:
            raise InstanceError(at.id, f"{path} answered what is no JSON: {body[:80]!r}") from why
        if not isinstance(told, dict):
            raise InstanceError(at.id, f"{path} answered no JSON object: {body[:80]!r}")
        return told


def _error_in(line: bytes) -> str:
    try:
        return str(orjson.loads(line).get("error", ""))
    except (orjson.JSONDecodeError, AttributeError):
        return line.decode(errors="replace")


def remote_of(told: Mapping[str, Any]) -> str:
    """Who serves a model in truth, as /api/tags or /api/show have it; '' where that is the server itself."""
    return str(told.get("remote_host") or ("somebody else" if told.get("remote_model") else ""))


def weights_of(shown: Mapping[str, Any]) -> str:
    """The digest of a model's weights as /api/show has it; '' where it does not. Models with the same share a runner,
    and /api/ps lists it once, under the name that loaded it (OLLAMA.md 1.10)."""
    lines = str(shown.get("modelfile", "")).splitlines()
    found = [line.rpartition("sha256-")[2].strip() for line in lines if line.startswith("FROM ") and "sha256-" in line]
    return found[0] if found else ""


def embeds_only(capabilities: object) -> bool | None:
    """Whether a model with these abilities embeds text and does nothing else; None where they are not told."""
    if not isinstance(capabilities, list) or not capabilities:
        return None
    return "embedding" in capabilities and "completion" not in capabilities


def _named(models: object) -> list[dict[str, Any]]:
    found = models if isinstance(models, list) else []
    return [each for each in found if isinstance(each, dict) and _name(each)]


def _whole(number: object) -> int:
    return number if isinstance(number, int) else 0


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry.get("model") or entry.get("name") or "")


def _of_ollama(entry: dict[str, Any]) -> Listed:
    name = _name(entry)
    remote = remote_of(entry) or ("ollama.com" if is_cloud_model(name) else "")
    named = {"name": name, "model": name}
    known = {key: value for key, value in entry.items() if value is not None}
    return Listed(name, {**named, **_USUAL_TAGS, **known}, remote, embeds_only(entry.get("capabilities")))


def _of_llama_cpp(told: dict[str, Any]) -> tuple[Listed, ...]:
    abilities = {_name(each): embeds_only(each.get("capabilities")) for each in _named(told.get("models"))}
    data = told.get("data")
    rows = [each for each in data if isinstance(each, dict) and each.get("id")] if isinstance(data, list) else []
    return tuple(
        Listed(str(row["id"]), {}, "", abilities.get(str(row["id"])), _shape(row.get("meta") or {})) for row in rows
    )


def _shape(meta: Mapping[str, Any]) -> ModelShape:
    """As far as /v1/models tells; nothing is placed by it."""
    number = {name: _whole(meta.get(name)) for name in ("n_params", "n_embd", "n_vocab", "n_ctx_train", "size")}
    return ModelShape(
        arch="llama.cpp",
        parameters=number["n_params"],
        layers=0,
        heads=0,
        kv_heads=0,
        head_dim=0,
        embedding_length=number["n_embd"],
        vocab=number["n_vocab"],
        context_length=number["n_ctx_train"],
        weights_bytes=number["size"],
        quantisation=str(meta.get("ftype") or ""),
        source="the server's /v1/models",
    )
