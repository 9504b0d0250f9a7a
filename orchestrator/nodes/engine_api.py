"""What the controller asks of an instance over HTTP: is it there, has it its model, pull it, load it, describe it.

A model's load and pull are the cluster's own requests: a client that leaves can abort neither (Ollama gives a load up
with the client that caused it). Whatever goes wrong, also an answer that makes no sense, is an InstanceError.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from orchestrator.core.abilities import abilities_of
from orchestrator.core.catalogue import is_cloud_model
from orchestrator.core.errors import CapacityError, InstanceError
from orchestrator.core.model import Engine, Instance
from orchestrator.core.tls_words import tls_trouble
from orchestrator.nodes.remembering import RememberingResolver
from orchestrator.nodes.tls import Contexts

PROBE_TIMEOUT_S = 5.0
# Longer than Ollama itself needs to give up a load or a pull without progress (OLLAMA_LOAD_TIMEOUT, 5 min): a load
# says nothing until it is done, so a shorter limit here would abort large ones on slow disks for ever.
LOAD_TIMEOUT_S = 3600.0
PULL_SILENCE_S = 330.0
_PROBE = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
_LONGEST_REASON = 300


class EngineApi:
    """One HTTP session for all instances of the controller."""

    def __init__(self, contexts: Contexts | None = None) -> None:
        """`contexts`: what those that want TLS are asked with."""
        self._contexts = contexts or Contexts()
        # No limit: long loads of many instances must not keep a probe waiting for a connection.
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, resolver=RememberingResolver()))

    async def close(self) -> None:
        await self._http.close()

    async def version(self, instance: Instance) -> str:
        """The engine's version: it answers. Raises InstanceError while it does not."""
        if instance.engine is Engine.LLAMA_CPP:
            await self._get(instance, "/health")  # 503 while the model loads
            return "llama.cpp"
        return str((await self._get(instance, "/api/version")).get("version", ""))

    async def has_model(self, instance: Instance) -> bool:
        """Whether the weights are on the instance's disk; llama.cpp is started with them.

        Raises InstanceError also for a model that Ollama would send elsewhere: its prompts would leave the house.
        """
        if instance.engine is Engine.LLAMA_CPP:
            return True
        _refuse_cloud_name(instance)
        status, shown = await self._ask(instance, "/api/show", {"model": instance.upstream_model})
        if status == 404:
            return False
        if status != 200:
            raise InstanceError(instance.id, f"/api/show answered {status}: {_reason(shown)}")
        _refuse_remote(instance, shown)
        return True

    async def is_loaded(self, instance: Instance) -> bool:
        """Whether the model is in memory, as far as the engine tells; under whatever name of its weights.

        Ollama lists a runner once, under the name that loaded it first.
        """
        if instance.engine is Engine.LLAMA_CPP:
            await self._get(instance, "/health")
            return True
        names = [each["model"] for each in await self._listed(instance, "/api/ps")]
        if any(_is_same_name(name, instance.upstream_model) for name in names):
            return True
        if not names:
            return False
        mine = await self._weights(instance, instance.upstream_model)
        return bool(mine) and any([await self._weights(instance, name) == mine for name in names])

    async def describe(self, instance: Instance) -> dict[str, Any]:
        """Its own `/api/tags` and `/api/ps` entries and `/api/show` body of its model. Raises InstanceError."""
        tags = await self._listed(instance, "/api/tags")
        running = await self._listed(instance, "/api/ps")
        status, show = await self._ask(instance, "/api/show", {"model": instance.upstream_model})
        if status != 200:
            raise InstanceError(instance.id, f"/api/show answered {status}: {_reason(show)}")
        _refuse_remote(instance, show)

        def own(listed: list[dict[str, Any]]) -> dict[str, Any]:
            return next((each for each in listed if _is_same_name(each["model"], instance.upstream_model)), {})

        _refuse_remote(instance, own(tags))
        return {"tags": own(tags), "ps": own(running), "show": show}

    async def abilities(self, instance: Instance) -> tuple[str, ...]:
        """What the model of llama.cpp's server can do, in Ollama's words; () where it does not tell."""
        async with self._answered(instance, "/props") as reply:
            body = await reply.read()
            return abilities_of(_object(instance, "/props", body)) if reply.status == 200 else ()

    async def pull(self, instance: Instance, on_progress: Callable[[str, int, int], None]) -> None:
        """Have the instance fetch its model; `on_progress` gets status, bytes done and in all. Raises InstanceError."""
        _refuse_cloud_name(instance)
        body = {"model": instance.upstream_model, "stream": True}
        limits = aiohttp.ClientTimeout(total=None, sock_read=PULL_SILENCE_S, sock_connect=PROBE_TIMEOUT_S)
        async with self._answered(instance, "/api/pull", body, limits) as reply:
            if reply.status != 200:
                raise InstanceError(
                    instance.id, f"pull answered {reply.status}: {_reason(_parsed(await reply.read()))}"
                )
            last = ""
            async for line in reply.content:
                event = _object(instance, "/api/pull", line)
                if "error" in event:  # an error after the headers comes as a line
                    raise InstanceError(instance.id, f"pull of {instance.upstream_model}: {_reason(event)}")
                last = str(event.get("status", ""))
                on_progress(last, _count(event.get("completed")), _count(event.get("total")))
            if last != "success":
                raise InstanceError(
                    instance.id, f"pull of {instance.upstream_model} ended early, after: {last or 'nothing'}"
                )

    async def load(self, instance: Instance, *, is_embedding: bool) -> None:
        """Load the model for good, with the pool's own context. Raises InstanceError."""
        if instance.engine is Engine.LLAMA_CPP:
            return
        options = {"num_ctx": instance.context}
        body: dict[str, Any] = {"model": instance.upstream_model, "keep_alive": -1, "options": options}
        # Not streamed: what goes wrong is then a status of its own.
        path, more = ("/api/embed", {"input": "warm"}) if is_embedding else ("/api/generate", {"stream": False})
        limits = aiohttp.ClientTimeout(total=LOAD_TIMEOUT_S, sock_connect=PROBE_TIMEOUT_S)
        status, answer = await self._ask(instance, path, {**body, **more}, limits)
        if status != 200 or "error" in answer:
            raise InstanceError(instance.id, f"load answered {status}: {_reason(answer)}")

    async def unload(self, instance: Instance) -> None:
        """Have the model go; it is gone once /api/ps no longer has it. Raises InstanceError."""
        body = {"model": instance.upstream_model, "keep_alive": 0, "stream": False}
        status, told = await self._ask(instance, "/api/generate", body)
        if status != 200:
            raise InstanceError(instance.id, f"unload answered {status}: {_reason(told)}")

    async def answers(self, instance: Instance, within_s: float, *, is_embedding: bool) -> bool:
        """Whether a question of one token is answered in that time, even by an error: what has hung answers nothing.

        No option that would load the model anew. Raises InstanceError where the connection fails.
        """
        path, body = _smallest_question(instance, is_embedding=is_embedding)
        limits = aiohttp.ClientTimeout(total=within_s)
        try:
            async with self._answered(instance, path, body, limits) as reply:
                await reply.read()
        except InstanceError as why:
            if isinstance(why.__cause__, TimeoutError):
                return False
            raise
        return True

    async def check_answer(self, instance: Instance, within_s: float, *, is_embedding: bool) -> None:
        """Have a question of one token answered, and rightly: with a token, or a vector. Raises InstanceError.

        Raises CapacityError where its line is full: others call it, and it says nothing of itself. No option that
        would load the model anew.
        """
        path, body = _smallest_question(instance, is_embedding=is_embedding)
        limits = aiohttp.ClientTimeout(total=within_s, sock_connect=PROBE_TIMEOUT_S)
        try:
            status, answer = await self._ask(instance, path, body, limits)
        except InstanceError as why:
            if isinstance(why.__cause__, TimeoutError) and not why.is_unreachable:
                raise InstanceError(instance.id, f"its first question had no answer within {within_s:g} s") from why
            raise
        if status == 503:
            raise CapacityError(f"its first question found no place in its line, others call it: {_reason(answer)}", 1)
        if status != 200 or "error" in answer:
            raise InstanceError(instance.id, f"its first question was answered {status}: {_reason(answer)}")
        if not (_holds_a_vector(answer) if is_embedding else _holds_a_token(answer)):
            missing = "vector" if is_embedding else "token"
            raise InstanceError(instance.id, f"its first question was answered without a {missing}")

    async def rests(self, instance: Instance) -> bool:
        """Whether no call is under way there, whoever made it. Raises InstanceError.

        llama.cpp tells. Ollama does not, but lets its model go only after the last answer, and so it is told to.
        """
        if instance.engine is not Engine.LLAMA_CPP:
            await self.unload(instance)
            return not await self.is_loaded(instance)
        async with self._answered(instance, "/slots") as reply:
            slots = _list(await reply.read()) if reply.status == 200 else []
        return not any(each.get("is_processing") for each in slots if isinstance(each, dict))

    async def _weights(self, instance: Instance, name: str) -> str:
        """The digest of the weights behind a name; empty where the engine does not tell."""
        status, shown = await self._ask(instance, "/api/show", {"model": name})
        lines = str(shown.get("modelfile", "")).splitlines() if status == 200 else []
        sources = [
            line.rpartition("sha256-")[2].strip() for line in lines if line.startswith("FROM ") and "sha256-" in line
        ]
        return sources[0] if sources else ""

    async def _listed(self, instance: Instance, path: str) -> list[dict[str, Any]]:
        models = (await self._get(instance, path)).get("models") or []
        if not isinstance(models, list) or not all(isinstance(each, dict) and "model" in each for each in models):
            raise InstanceError(instance.id, f"{path} answered no list of models")
        return models

    async def _get(self, instance: Instance, path: str) -> dict[str, Any]:
        async with self._answered(instance, path) as reply:
            body = await reply.read()
            if reply.status != 200:
                raise InstanceError(instance.id, f"{path} answered {reply.status}: {_reason(_parsed(body))}")
            return _object(instance, path, body)

    async def _ask(
        self, instance: Instance, path: str, body: dict[str, Any], limits: aiohttp.ClientTimeout = _PROBE
    ) -> tuple[int, dict[str, Any]]:
        async with self._answered(instance, path, body, limits) as reply:
            answer = await reply.read()
            return reply.status, _object(instance, path, answer) if reply.status == 200 else _parsed(answer)

    @asynccontextmanager
    async def _answered(
        self,
        instance: Instance,
        path: str,
        body: dict[str, Any] | None = None,
        limits: aiohttp.ClientTimeout = _PROBE,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request under way whose transport errors come out as InstanceError."""
        origin, tls = self._contexts.spoken(instance.id, instance.host, instance.port, instance.tls_name)
        method, data = ("GET", None) if body is None else ("POST", orjson.dumps(body))
        try:
            async with self._http.request(
                method, origin + path, data=data, allow_redirects=False, timeout=limits, **tls
            ) as reply:
                yield reply
        except (aiohttp.ClientError, TimeoutError) as why:
            if trouble := tls_trouble(why):
                raise InstanceError(instance.id, trouble, is_unreachable=True) from why
            away = isinstance(why, aiohttp.ClientConnectorError)
            said = str(why) or type(why).__name__
            raise InstanceError(instance.id, f"{path}: {said}", is_unreachable=away) from why


def _smallest_question(instance: Instance, *, is_embedding: bool) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {"model": instance.upstream_model}
    if is_embedding:
        is_llama_cpp = instance.engine is Engine.LLAMA_CPP
        return "/v1/embeddings" if is_llama_cpp else "/api/embed", {**body, "input": "warm"}
    if instance.engine is Engine.LLAMA_CPP:
        return "/v1/completions", {**body, "prompt": "1", "max_tokens": 1}
    # The context of a server that somebody else runs is its own, and holds where none is named.
    context = {} if instance.is_given else {"num_ctx": instance.context}
    options = {"num_predict": 1, **context}
    return "/api/generate", {**body, "prompt": "1", "raw": True, "stream": False, "options": options}


def _holds_a_token(answer: dict[str, Any]) -> bool:
    """Whether one was generated. It may have no text: an end, or half a letter."""
    usage, choices = answer.get("usage"), answer.get("choices")
    if choices is not None:  # OpenAI's form
        return bool(choices) and isinstance(usage, dict) and _count(usage.get("completion_tokens")) > 0
    return answer.get("done") is True and (_count(answer.get("eval_count")) > 0 or bool(answer.get("response")))


def _holds_a_vector(answer: dict[str, Any]) -> bool:
    """Whether there is one, of numbers alone."""
    data = answer.get("data")  # OpenAI's form
    if isinstance(data, list):
        vectors = [each.get("embedding") for each in data if isinstance(each, dict)]
    else:
        vectors = answer.get("embeddings") or []
    first = vectors[0] if isinstance(vectors, list) and vectors else None
    return isinstance(first, list) and bool(first) and all(isinstance(each, int | float) for each in first)


def _object(instance: Instance, path: str, body: bytes) -> dict[str, Any]:
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError as why:
        raise InstanceError(instance.id, f"{path} answered what is no JSON: {body[:80]!r}") from why
    if not isinstance(read, dict):
        raise InstanceError(instance.id, f"{path} answered no JSON object: {body[:80]!r}")
    return read


def _list(body: bytes) -> list[Any]:
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    return read if isinstance(read, list) else []


def _parsed(body: bytes) -> dict[str, Any]:
    """The body of an error: Ollama's JSON, or whatever it is, as one."""
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"error": body.decode(errors="replace")}
    return read if isinstance(read, dict) else {"error": str(read)}


def _reason(answer: dict[str, Any]) -> str:
    why = answer.get("error")
    text = why.get("message") if isinstance(why, dict) else why  # llama.cpp's is an object
    return str(text or "no reason given").strip()[:_LONGEST_REASON]


def _count(number: object) -> int:
    return number if isinstance(number, int) else 0


def _is_same_name(one: object, other: str) -> bool:
    return isinstance(one, str) and _plain(one) == _plain(other)


def _plain(name: str) -> str:
    """A model's name as Ollama compares it: no case, the default registry, namespace and tag filled in or left out."""
    plain = name.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return plain if ":" in plain.rpartition("/")[2] else f"{plain}:latest"


def _refuse_cloud_name(instance: Instance) -> None:
    if is_cloud_model(instance.upstream_model):
        raise InstanceError(instance.id, f"{instance.upstream_model} is served by ollama.com, {_WAY_OUT}")


def _refuse_remote(instance: Instance, told: dict[str, Any]) -> None:
    if host := told.get("remote_host") or (told.get("remote_model") and "somebody else"):
        raise InstanceError(instance.id, f"{instance.upstream_model} is served by {host}, {_WAY_OUT}")


_WAY_OUT = "not by this machine: prompts would leave the house; name a model that is downloaded"
