"""What a simulated Ollama says about itself and its models: version, tags, ps, show, OpenAI's list."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.errors import JSON_TYPE, OPENAI_JSON_TYPE, error_response, kind_of
from orchestrator.core.dialects.frames import go_time
from orchestrator.core.model import Dialect
from orchestrator.nodes.simulator.config import SimulatedModel, SimulatorConfig, parameter_size
from orchestrator.nodes.simulator.http import Routes, respond
from orchestrator.nodes.simulator.residence import Residence
from orchestrator.nodes.simulator.shelf import Shelf


class Listing:
    """The paths that tell of the models on an instance's shelf and in its memory."""

    def __init__(self, config: SimulatorConfig, shelf: Shelf, residence: Residence) -> None:
        self._config, self._shelf, self._residence = config, shelf, residence
        self.find = shelf.find

    def routes(self) -> Routes:
        def either(handler: Any) -> dict[str, Any]:
            return {"GET": handler, "HEAD": handler}

        return {
            "/": either(self._root),
            "/api/version": either(self._version),
            "/api/status": {"GET": self._status},
            "/api/tags": either(self._tags),
            "/api/ps": {"GET": self._ps},
            "/api/show": {"POST": self._show},
            "/v1/models": {"GET": self._openai_models},
            "/v1/models/": {"GET": self._openai_model},
        }

    async def _root(self, request: web.Request) -> web.StreamResponse:
        return await respond(request, 200, "text/plain; charset=utf-8", b"Ollama is running")

    async def _version(self, request: web.Request) -> web.StreamResponse:
        return await _json(request, {"version": self._config.version})

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return await _json(request, {"cloud": {"disabled": True, "source": "env"}})

    async def _tags(self, request: web.Request) -> web.StreamResponse:
        return await _json(request, {"models": [_tag(each) for each in self._shelf.present()]})

    async def _ps(self, request: web.Request) -> web.StreamResponse:
        rows: list[dict[str, Any]] = []
        for resident in self._residence.listed():
            model, size = resident.runner.model, resident.size_bytes
            rows.append({
                "name": model.name,
                "model": model.name,
                "size": size,
                "digest": model.digest,
                "details": _details(model),
                "expires_at": _moment(resident.expires_at),
                "size_vram": size if self._config.card else 0,
                "context_length": resident.runner.context,
            })  # fmt: skip
        return await _json(request, {"models": rows})

    async def _show(self, request: web.Request) -> web.StreamResponse:
        name = await _model_named(request)
        if isinstance(name, web.StreamResponse):
            return name
        model = self.find(name)
        if not name:
            return await _refuse(request, 400, "model is required")
        if model is None:
            return await _refuse(request, 404, f"model '{_tagged(name)}' not found")
        return await _json(request, _shown(model))

    async def _openai_models(self, request: web.Request) -> web.StreamResponse:
        body = {"object": "list", "data": [_openai(each) for each in self._shelf.present()]}
        return await respond(request, 200, OPENAI_JSON_TYPE, gojson.dumps(body) + b"\n")

    async def _openai_model(self, request: web.Request) -> web.StreamResponse:
        name = request.path.rpartition("/")[2]
        model = self.find(name)
        if model is None:
            message = f"model '{_tagged(name)}' not found"
            return await respond(request, 404, *error_response(Dialect.OPENAI, 404, message, kind_of(404)))
        return await respond(request, 200, OPENAI_JSON_TYPE, gojson.dumps(_openai(model)) + b"\n")


async def _model_named(request: web.Request) -> str | web.StreamResponse:
    """The body's `model`, or its old name `name`; a response where the body is no object."""
    try:
        body = gojson.loads(await request.read())
    except gojson.GoJsonError as why:
        return await _refuse(request, 400, "missing request body" if why.is_empty else str(why))
    if not isinstance(body, dict):
        told = f"json: cannot unmarshal {gojson.type_name(body)} into Go value of type api.ShowRequest"
        return await _refuse(request, 400, told)
    return str(body.get("model") or body.get("name") or "")


async def _json(request: web.Request, fields: dict[str, Any]) -> web.StreamResponse:
    return await respond(request, 200, JSON_TYPE, gojson.dumps(fields))


async def _refuse(request: web.Request, status: int, message: str) -> web.StreamResponse:
    return await respond(request, status, *error_response(Dialect.OLLAMA, status, message))


def _tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _moment(unix_s: float) -> str:
    return go_time(datetime.fromtimestamp(unix_s, UTC))


def _details(model: SimulatedModel) -> dict[str, Any]:
    family = model.family or model.shape.arch
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": model.parameter_size or parameter_size(model.shape.parameters),
        "quantization_level": model.shape.quantisation,
    }


def _tag(model: SimulatedModel) -> dict[str, Any]:
    sizes = {"context_length": model.shape.context_length, "embedding_length": model.shape.embedding_length}
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": model.modified_at,
        "size": model.file_bytes,
        "digest": model.digest,
        "details": _details(model) | sizes,
        "capabilities": list(model.capabilities),
    }


def _shown(model: SimulatedModel) -> dict[str, Any]:
    shape = model.shape
    info = {
        "general.architecture": shape.arch,
        "general.parameter_count": shape.parameters,
        f"{shape.arch}.attention.head_count": shape.heads,
        f"{shape.arch}.attention.head_count_kv": shape.kv_heads,
        f"{shape.arch}.block_count": shape.layers,
        f"{shape.arch}.context_length": shape.context_length,
        f"{shape.arch}.embedding_length": shape.embedding_length,
        f"{shape.arch}.vocab_size": shape.vocab,
    }
    fields = {
        "modelfile": f"# a simulated model\nFROM {model.name}\n",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": _details(model),
        "model_info": info,
        "tensors": [],
        "capabilities": list(model.capabilities),
        "modified_at": model.modified_at,
    }
    return fields | dict(model.show)


def _openai(model: SimulatedModel) -> dict[str, Any]:
    created = int(datetime.fromisoformat(model.modified_at[:19] + "+00:00").timestamp())
    return {"id": model.name, "object": "model", "created": created, "owned_by": "library"}
