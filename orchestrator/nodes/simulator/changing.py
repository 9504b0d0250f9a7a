"""What changes the models of a simulated Ollama: pulled, pushed, made, copied, deleted, and files sent for them."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import OPENAI_JSON_TYPE, error_response
from orchestrator.core.dialects.frames import NDJSON_TYPE
from orchestrator.core.manifests import split_name
from orchestrator.core.model import Dialect
from orchestrator.nodes.simulator.http import BLOB_PATH, GoStream, Routes, respond
from orchestrator.nodes.simulator.shelf import Shelf, ShelfError

_DIGEST: Final = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_KEPT_IN_MEMORY: Final = 2**20
# Fields of a request to create that change what the model is made of.
_CHANGES: Final = ("system", "template", "parameters", "messages", "license", "adapters", "quantize")


class Changing:
    """The paths that change an instance's shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def routes(self) -> Routes:
        return {
            "/api/pull": {"POST": self._pull},
            "/api/push": {"POST": self._push},
            "/api/create": {"POST": self._create},
            "/api/copy": {"POST": self._copy},
            "/api/delete": {"DELETE": self._delete},
            BLOB_PATH: {"HEAD": self._has_blob, "POST": self._take_blob},
        }

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        """Fetch a model; after the headers an error is a line (or 500 without a stream)."""
        asked = await _asked(request, "PullRequest")
        if isinstance(asked, web.StreamResponse):
            return asked
        stream = GoStream(request, NDJSON_TYPE) if asked.get("stream", True) else None
        last: dict[str, Any] = {}
        async for last in self._shelf.pull(_named(asked)):
            if stream is not None:
                await stream.send(gojson.dumps(last) + b"\n")
        if stream is None:
            return await respond(request, 500 if "error" in last else 200, OPENAI_JSON_TYPE, gojson.dumps(last))
        await stream.write_eof()
        return stream

    async def _push(self, request: web.Request) -> web.StreamResponse:
        """No registry hears of it."""
        asked = await _asked(request, "PushRequest")
        if isinstance(asked, web.StreamResponse):
            return asked
        if not _named(asked):
            return await _refuse(request, 400, "model is required")
        return await _told(request, asked, list(self._pushed(_named(asked))))

    def _pushed(self, name: str) -> Iterator[dict[str, Any]]:
        yield {"status": "retrieving manifest"}
        model = self._shelf.find(name)
        if model is None:
            yield {"status": "couldn't retrieve manifest"}
            yield {"error": f"open manifests/{name}: no such file or directory"}
            return
        layer = {"status": f"pushing {model.digest[:12]}", "digest": f"sha256:{model.digest}"}
        yield {**layer, "total": model.file_bytes}
        yield {**layer, "total": model.file_bytes, "completed": model.file_bytes}
        yield {"status": "pushing manifest"}
        yield {"status": "success"}

    async def _create(self, request: web.Request) -> web.StreamResponse:
        asked = await _asked(request, "CreateRequest")
        if isinstance(asked, web.StreamResponse):
            return asked
        name, source = _named(asked), str(asked.get("from") or "")
        if split_name(name) is None:
            return await _refuse(request, 400, "invalid model name")
        lines: list[dict[str, Any]] = []
        if source and self._shelf.find(source) is None:
            lines = [each async for each in self._shelf.pull(source)][:-1]  # as Ollama does: what is missing is pulled
        elif asked.get("files"):
            lines = [{"status": "parsing GGUF"}]
        more = gojson.dumps({each: asked[each] for each in _CHANGES if asked.get(each)})
        try:
            self._shelf.create(name, source, asked.get("files") or {}, more if more != b"{}" else b"")
        except ShelfError as why:
            if why.status == 400:
                return await _refused_late(request, str(why))
            return await _told(request, asked, [*lines, {"error": str(why)}])
        weights = getattr(self._shelf.find(name), "weights", "")
        made = [{"status": f"using existing layer {weights}"}]
        made += [{"status": f"creating new layer sha256:{hashlib.sha256(more).hexdigest()}"}] if more != b"{}" else []
        return await _told(request, asked, [*lines, *made, {"status": "writing manifest"}, {"status": "success"}])

    async def _copy(self, request: web.Request) -> web.StreamResponse:
        asked = await _asked(request, "CopyRequest")
        if isinstance(asked, web.StreamResponse):
            return asked
        source, destination = str(asked.get("source") or ""), str(asked.get("destination") or "")
        for field, name in (("source", source), ("destination", destination)):
            if split_name(name) is None:
                return await _refuse(request, 400, f"{field} {gojson.quote(name)} is invalid")
        if self._shelf.copy(source, destination):
            return web.Response()
        return await _refuse(request, 404, f"model {gojson.quote(source)} not found")

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        asked = await _asked(request, "DeleteRequest")
        if isinstance(asked, web.StreamResponse):
            return asked
        if self._shelf.delete(_named(asked)):
            return web.Response()
        return await _refuse(request, 404, f"model '{_named(asked)}' not found")

    async def _has_blob(self, request: web.Request) -> web.StreamResponse:
        found = _DIGEST.fullmatch(request.path.removeprefix(BLOB_PATH))
        if found is None:
            return await _refuse(request, 400, "invalid digest format")
        if self._shelf.has_blob(found[1].lower()):
            return web.Response()
        named = request.path.removeprefix(BLOB_PATH)
        return await _refuse(request, 404, f"blob {gojson.quote(named)} not found")

    async def _take_blob(self, request: web.Request) -> web.StreamResponse:
        """A file, as it comes; it is kept where it is what it is called."""
        named = request.path.removeprefix(BLOB_PATH)
        found = _DIGEST.fullmatch(named)
        if found is None:
            return await _refuse(request, 400, "invalid digest format")
        if self._shelf.has_blob(found[1].lower()):
            return web.Response()
        digest = hashlib.sha256()
        with tempfile.SpooledTemporaryFile(_KEPT_IN_MEMORY) as content:
            async for piece in request.content.iter_any():
                digest.update(piece)
                content.write(piece)
            got = f"sha256:{digest.hexdigest()}"
            if digest.hexdigest() != found[1].lower():
                told = f"digest mismatch, expected {gojson.quote(named)}, got {gojson.quote(got)}"
                return await _refuse(request, 400, told)
            content.seek(0)
            self._shelf.keep_blob(digest.hexdigest(), content)
        return web.Response(status=201)


async def _asked(request: web.Request, kind: str) -> dict[str, Any] | web.StreamResponse:
    """The body; a response where it is no object."""
    try:
        body = gojson.loads(await request.read())
    except gojson.GoJsonError as why:
        return await _refuse(request, 400, "missing request body" if why.is_empty else str(why))
    if not isinstance(body, dict):
        told = f"json: cannot unmarshal {gojson.type_name(body)} into Go value of type api.{kind}"
        return await _refuse(request, 400, told)
    return body


async def _told(request: web.Request, asked: dict[str, Any], lines: list[dict[str, Any]]) -> web.StreamResponse:
    """Lines of what was done, or the last one of them alone."""
    if not asked.get("stream", True):
        last = lines[-1]
        return await respond(request, 500 if "error" in last else 200, OPENAI_JSON_TYPE, gojson.dumps(last))
    stream = GoStream(request, NDJSON_TYPE)
    for each in lines:
        await stream.send(gojson.dumps(each) + b"\n")
    await stream.write_eof()
    return stream


async def _refused_late(request: web.Request, message: str) -> web.StreamResponse:
    """A refusal from where lines would be told: a chunk, and a type without a charset."""
    stream = GoStream(request, OPENAI_JSON_TYPE)
    stream.set_status(400)
    await stream.send(gojson.dumps({"error": message}))
    await stream.write_eof()
    return stream


def _named(asked: dict[str, Any]) -> str:
    return str(asked.get("model") or asked.get("name") or "")


async def _refuse(request: web.Request, status: int, message: str) -> web.StreamResponse:
    return await respond(request, status, *error_response(Dialect.OLLAMA, status, message))
