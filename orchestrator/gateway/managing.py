"""Ollama's endpoints that change which models there are: each is one change of the whole cluster.

Here a request becomes a `Chore`, and what is told of it becomes Ollama's answer. The controller carries it out. Who
leaves ends nothing: a change that was asked for is done, and who asks for the same again follows it. Bytes of files go
from here to the servers that lack them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, Protocol

from orchestrator.core.chores import PASSED_ON, SUCCESS, Chore, ChoreKind, Ending, ending, is_blob, would_leave
from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import OPENAI_JSON_TYPE, MalformedCall, error_response
from orchestrator.core.dialects.frames import NDJSON_TYPE
from orchestrator.core.errors import CallerError, OrchestratorError
from orchestrator.core.manifests import split_name
from orchestrator.core.model import Dialect
from orchestrator.gateway.blobs import Target, spread
from orchestrator.gateway.client_stream import ClientStream
from orchestrator.gateway.connection import Connection
from orchestrator.gateway.errors import dialect_of
from orchestrator.gateway.identity import Caller
from orchestrator.gateway.live import Live
from orchestrator.gateway.replies import Reply, field, whole
from orchestrator.gateway.request import Request
from orchestrator.gateway.trace import Trace
from orchestrator.gateway.upstream import Contexts

log = logging.getLogger(__name__)

BLOB_PATH: Final = "/api/blobs/"
# A template, a system prompt, some messages; files are sent apart.
BODY_BYTES: Final = 2**20
# A client that reads nothing of the end for so long is cut off.
_FINISH_S: Final = 30.0
_KINDS: Final = {
    "/api/pull": ChoreKind.PULL,
    "/api/push": ChoreKind.PUSH,
    "/api/create": ChoreKind.CREATE,
    "/api/copy": ChoreKind.COPY,
    "/api/delete": ChoreKind.DELETE,
}
METHODS: Final = {path: ("DELETE",) if kind is ChoreKind.DELETE else ("POST",) for path, kind in _KINDS.items()}
_STRUCTS: Final = {each: f"{each.capitalize()}Request" for each in ChoreKind}

# Said before anything is done: who, what, and to which model. Raises OrchestratorError, and then it is not done.
Audit = Callable[[str, str, str], None]


class Chores(Protocol):
    """The way to the controller. Raises StoreError and CapacityError."""

    async def ask(self, chore: Chore) -> Chore: ...
    def follow(self, chore: Chore) -> AsyncGenerator[Mapping[str, Any] | Ending | None, None]: ...


class Managing:
    """Of one worker. Whether a caller may change models at all was looked at before."""

    def __init__(self, live: Live, chores: Chores, audit: Audit, contexts: Contexts | None = None) -> None:
        """`contexts`: what servers behind TLS are sent files with."""
        self._live, self._chores, self._audit, self._contexts = live, chores, audit, contexts
        self._is_leaving = False

    def end(self) -> None:
        """Follow nothing any more: that may take hours, and would keep the gateway from ending."""
        self._is_leaving = True

    async def change(self, request: Request, connection: Connection, trace: Trace) -> Reply | None:
        """`POST /api/pull` and its like."""
        kind = _KINDS[request.path]
        asked = _object(kind, await self._body(request))
        is_stream = kind.has_progress and asked.get("stream") is not False
        chore = Chore(kind, _checked(kind, asked), trace.caller.name)
        chore = await self._asked(chore, trace.caller)
        if is_stream:
            return await self._streamed(chore, request, connection, trace)
        ended = await self._end_of(chore)
        if not ended.is_success:
            return _refused(request, ended, trace)
        if kind.has_progress:
            return whole(OPENAI_JSON_TYPE, gojson.dumps({"status": SUCCESS}), _fields(trace))
        return Reply(200, _fields(trace))

    async def delete_openai(self, request: Request, name: str, trace: Trace) -> Reply:
        """`DELETE /v1/models/{id}`, which OpenAI has and Ollama has not."""
        chore = Chore(ChoreKind.DELETE, _checked(ChoreKind.DELETE, {"model": name}), trace.caller.name)
        ended = await self._end_of(await self._asked(chore, trace.caller))
        if not ended.is_success:
            return _refused(request, ended, trace)
        told = {"id": name, "object": "model", "deleted": True}
        return whole(OPENAI_JSON_TYPE, gojson.dumps(told) + b"\n", _fields(trace))

    async def blob(self, request: Request, _: Connection, trace: Trace) -> Reply:
        """`HEAD` and `POST /api/blobs/{digest}`: it is there once every server has it."""
        digest = request.path.removeprefix(BLOB_PATH).replace("sha256-", "sha256:", 1).lower()
        if not is_blob(digest):
            raise CallerError(400, "invalid digest format")
        request.stream()
        try:
            return await self._blob(digest, request, trace)
        finally:
            request.drop()

    async def _blob(self, digest: str, request: Request, trace: Trace) -> Reply:
        chore = Chore(ChoreKind.BLOB, {"digest": digest}, trace.caller.name)
        ended = await self._end_of(await self._chores.ask(chore))
        if not ended.is_success:
            return _refused(request, ended, trace)
        missing = [Target(*each) for each in ended.told["missing"]]
        if not missing:
            return Reply(200, _fields(trace))
        if request.method == "HEAD":
            raise CallerError(404, f'blob "{digest}" not found', "not_found_error")
        self._audit(trace.caller.name, "blob", digest)
        silence_s = self._live.rules.limits.between_bytes_s
        packing = request.header(b"content-encoding").strip().lower()
        if packing not in ("", "identity"):
            raise CallerError(415, "a blob is sent as it is: without Content-Encoding")
        pieces = request.pieces(silence_s)
        outcomes = await spread(missing, digest, request.length, pieces, silence_s, self._contexts)
        ended = ending(chore, outcomes)
        return Reply(201, _fields(trace)) if ended.is_success else _refused(request, ended, trace)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _body(self, request: Request) -> bytes:
        limits = self._live.rules.limits
        return await request.body(min(limits.body_bytes, BODY_BYTES), limits.between_bytes_s)

    async def _asked(self, chore: Chore, caller: Caller) -> Chore:
        """Have it done, once that is written down. Raises CallerError for a model that is not theirs to change."""
        for each in sorted(chore.names):
            if not caller.may_use(each):
                raise CallerError(403, f"the key of {caller.name} may not change {each}", "permission_error")
        self._audit(caller.name, chore.kind, chore.what)
        return await self._chores.ask(chore)

    async def _end_of(self, chore: Chore) -> Ending:
        async with aclosing(self._follow(chore)) as told:
            async for each in told:
                if isinstance(each, Ending):
                    return each
        raise OrchestratorError(f"{chore.kind} of {chore.subject} has no end")

    async def _follow(self, chore: Chore) -> AsyncGenerator[Mapping[str, Any] | Ending | None, None]:
        async with aclosing(self._chores.follow(chore)) as told:
            async for each in told:
                if self._is_leaving and not isinstance(each, Ending):
                    goes_on = f"{chore.kind} of {chore.subject} goes on, and this gateway ends: ask again to follow it"
                    yield Ending(503, goes_on)
                    return
                yield each

    async def _streamed(self, chore: Chore, request: Request, connection: Connection, trace: Trace) -> Reply | None:
        """Lines as they are told; an end before the first of them is an answer of its own, as it is with Ollama."""
        stream = ClientStream(request, connection, lambda: _fields(trace))
        async with aclosing(self._follow(chore)) as told:
            async for each in told:
                if isinstance(each, Ending):
                    if not stream.is_started and not each.is_success:
                        return _refused(request, each, trace)
                    line: Mapping[str, Any] = {"status": SUCCESS} if each.is_success else {"error": each.error}
                elif each is None:
                    continue
                else:
                    line = each
                if not stream.is_started:
                    stream.start(NDJSON_TYPE)
                if isinstance(each, Ending) or not stream.is_stalled:  # who reads slower than it comes misses some
                    stream.write([gojson.dumps(line) + b"\n"])
        await stream.finish(_FINISH_S)
        return None


def _object(kind: ChoreKind, raw: bytes) -> dict[str, Any]:
    try:
        body = gojson.loads(raw)
    except gojson.GoJsonError as why:
        raise MalformedCall("missing request body" if why.is_empty else str(why)) from why
    if not isinstance(body, dict):
        told = f"json: cannot unmarshal {gojson.type_name(body)} into Go value of type api.{_STRUCTS[kind]}"
        raise MalformedCall(told)
    for name in ("model", "name", "source", "destination", "from", "quantize"):
        if not isinstance(body.get(name) or "", str):
            raise MalformedCall(_wrong(kind, name, body[name], "string"))
    for name in ("stream", "insecure"):
        if body.get(name) is not None and not isinstance(body[name], bool):
            raise MalformedCall(_wrong(kind, name, body[name], "bool"))
    return body


def _wrong(kind: ChoreKind, name: str, value: object, wanted: str) -> str:
    told = gojson.type_name(value)
    return f"json: cannot unmarshal {told} into Go struct field {_STRUCTS[kind]}.{name} of type {wanted}"


def _checked(kind: ChoreKind, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What is passed on of a body. Raises CallerError for names that are none, and for models of somebody else's."""
    if kind is ChoreKind.COPY:
        body = {name: str(asked.get(name) or "") for name in ("source", "destination")}
        for name, model in body.items():
            if split_name(model) is None:
                raise CallerError(400, f"{name} {gojson.quote(model)} is invalid")
        return body
    model = str(asked.get("model") or asked.get("name") or "")
    if not model and kind is ChoreKind.PUSH:
        raise CallerError(400, "model is required")
    if split_name(model) is None:
        wrong = f"name {gojson.quote(model)} is invalid" if kind is ChoreKind.DELETE else "invalid model name"
        raise CallerError(400, wrong)
    body = {name: asked[name] for name in PASSED_ON.get(kind, ()) if asked.get(name) not in (None, "")}
    if asked.get("remote_host") or would_leave(kind, {"model": model, **body}):
        raise CallerError(400, f"{model} would be served by somebody else: prompts would leave the cluster")
    return {"model": model, **body}


def _refused(request: Request, ended: Ending, trace: Trace) -> Reply:
    dialect = dialect_of(request.path)
    content_type, body = error_response(dialect, ended.status, ended.error)
    if dialect is Dialect.OLLAMA and request.path in _KINDS and _KINDS[request.path].has_progress:
        content_type = OPENAI_JSON_TYPE  # where lines are told, Ollama writes an error without a charset
    return whole(content_type, body, _fields(trace), ended.status)


def _fields(trace: Trace) -> str:
    return field("X-Request-Id", trace.request_id)
