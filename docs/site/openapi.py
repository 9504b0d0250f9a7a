"""docs/openapi.yaml: the endpoint's paths as the gateway has them, with the words of api.yaml.

Paths, methods and who may ask come from the gateway's own table; fields of requests from the structs that it reads them
by. api.yaml beside this has what code does not say: summaries, answers, examples.

`python -m docs.site.openapi > docs/openapi.yaml`
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from unittest.mock import Mock

import yaml

from orchestrator import __version__
from orchestrator.core.dialects.frames import stream_type
from orchestrator.core.dialects.gofields import GoType
from orchestrator.core.dialects.gostructs import _STRUCTS, _UNTYPED
from orchestrator.core.model import Endpoint
from orchestrator.gateway.errors import dialect_of
from orchestrator.gateway.managing import BLOB_PATH
from orchestrator.gateway.server import Access, Server
from orchestrator.gateway.server import Path as Served

WORDS: Final = Path(__file__).with_name("api.yaml")
HEAD: Final = "# Generated: python -m docs.site.openapi > docs/openapi.yaml\n"
_TYPES: Final = {"bool": "boolean", "int": "integer"}
# Nothing: where no keys are configured.
_KEYS: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"apiKey": []}, {}]
_INFERENCE: Final = frozenset(Endpoint)
# Paths that end by a name of something.
_NAMED: Final = {"/v1/models/": "{model}", BLOB_PATH: "{digest}"}
_SCOPED: Final = frozenset({Access.ADMIN, Access.MODELS})


def served() -> dict[str, Served]:
    """Every path that a gateway serves, as OpenAPI writes it."""
    table = Server(*(Mock() for _ in range(9)))._paths
    return {path + _NAMED.get(path, ""): each for path, each in table.items()}


def document() -> dict[str, Any]:
    """The whole description. Raises KeyError where api.yaml has no words for a path, or some for one that is none."""
    words = yaml.safe_load(WORDS.read_text(encoding="utf-8"))
    paths = served()
    if apart := words["paths"].keys() ^ paths.keys():
        raise KeyError(f"served and in {WORDS.name} are not the same: {', '.join(sorted(apart))}")
    components = words["components"]
    components["schemas"] |= {_STRUCTS[each][0]: _request(each, words["paths"][each.value]) for each in Endpoint}
    return {
        "openapi": "3.1.0",
        "info": {"title": words["title"], "version": __version__, "description": words["description"]},
        "servers": words["servers"],
        "tags": words["tags"],
        "paths": {path: _path(path, paths[path], words["paths"][path]) for path in paths},
        "components": components,
    }


def written() -> str:
    """The description as YAML, as it lies in docs/openapi.yaml."""
    return HEAD + yaml.dump(document(), sort_keys=False, allow_unicode=True, width=120, Dumper=_Dumper)


def _path(path: str, known: Served, words: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {each.lower(): _operation(path, each, known, words) for each in known.methods}
    if path.endswith("}"):
        shown["parameters"] = [{"$ref": f"#/components/parameters/{path.rpartition('{')[2][:-1]}"}]
    return shown


def _operation(path: str, method: str, known: Served, words: Mapping[str, Any]) -> dict[str, Any]:
    words = {**words, **words.get(method.lower(), {})}
    told: dict[str, Any] = {"tags": [words["tag"]], "summary": words["summary"]}
    if "text" in words:
        told["description"] = words["text"]
    told["operationId"] = f"{method.lower()}{path.title().translate(_NO_MARKS)}"
    told["security"] = [] if known.access is Access.ANYONE else _KEYS
    if method == "HEAD":
        return told | {"responses": {"200": {"description": "as GET, without the body"}}}
    if path in _INFERENCE:
        told.update(parameters=[{"$ref": f"#/components/parameters/{each}"} for each in words["headers"]])
    if "sent" in words:
        told["requestBody"] = {"required": True, "content": {words["sent"]: {}}}
    elif method == "POST" or (method == "DELETE" and "asked" in words):
        content = {"schema": {"$ref": f"#/components/schemas/{_asked(path, words)}"}, "example": words["example"]}
        told["requestBody"] = {"required": True, "content": {"application/json": content}}
    return told | {"responses": _responses(path, method, known, words)}


_NO_MARKS: Final = str.maketrans("", "", "/_.{}")


def _asked(path: str, words: Mapping[str, Any]) -> str:
    return _STRUCTS[Endpoint(path)][0] if path in _INFERENCE else words["asked"]


def _responses(path: str, method: str, known: Served, words: Mapping[str, Any]) -> dict[str, Any]:
    dialect = dialect_of(path)
    content = {kind: {"schema": {"$ref": f"#/components/schemas/{name}"}} for kind, name in words["answer"].items()}
    answer: dict[str, Any] = {"description": words.get("told", "the answer"), "content": content}
    if path in _INFERENCE:
        answer["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS}
        if stream := words.get("stream"):
            content[stream_type(Endpoint(path))] = {"schema": {"$ref": f"#/components/schemas/{stream}"}}
    told = ({"200": answer} if content else {}) | words.get("others", {})  # some only lead on
    if known.access is Access.ANYONE:
        return told
    is_scoped = known.access in _SCOPED or method == "DELETE"
    told |= {"401": f"{dialect}NoKey"} | ({"403": f"{dialect}Error"} if is_scoped else {})
    if known.methods == ("POST",) or path.endswith("}") or method == "DELETE":
        told |= {"4XX": f"{dialect}Error"}
    if known.methods == ("POST",) or known.access is Access.MODELS or method == "DELETE":
        told |= {"429": f"{dialect}UsedUp"} if path in _INFERENCE else {}
        told |= {"503": f"{dialect}Busy", "5XX": f"{dialect}Error"}
    return {
        status: {"$ref": f"#/components/responses/{each}"} if isinstance(each, str) else each
        for status, each in told.items()
    }


_HEADERS: Final = ("X-Request-Id", "X-Tier", "X-Instance", "X-Cache", "Server-Timing")


def _request(endpoint: Endpoint, words: Mapping[str, Any]) -> dict[str, Any]:
    """A request's fields as the gateway checks them; those that take several types are in api.yaml."""
    fields = {name: schema(kind) for name, kind in _STRUCTS[endpoint][1].items()}
    own: dict[str, Any] = words.get("fields", {})
    if strange := own.keys() - fields.keys() - set(_UNTYPED):
        raise KeyError(f"{WORDS.name}: {endpoint.value} has no {', '.join(sorted(strange))}")
    return {"type": "object", "required": words["needs"], "properties": fields | own}


def schema(kind: GoType) -> dict[str, Any]:
    """A Go type as JSON schema. A type with a rule of its own says nothing of itself."""
    if kind.rule is not None:
        return {}
    told: dict[str, Any] = {"type": _TYPES.get(kind.takes, kind.takes)}
    if kind.items is not None:
        told["items"] = schema(kind.items)
    if kind.fields:
        told["properties"] = {name: schema(each) for name, each in kind.fields.items()}
    return {"anyOf": [{"type": "string"}, told]} if kind.takes_text else told


class _Dumper(yaml.SafeDumper):
    """YAML without anchors, and with texts of many lines as blocks."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)

if __name__ == "__main__":
    sys.stdout.write(written())
