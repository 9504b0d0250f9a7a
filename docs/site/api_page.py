"""The site's page of the API, from the OpenAPI description."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from docs.site.openapi import document

_INTRODUCTION = """\
# API

The same as OpenAPI 3.1, for tools: [openapi.yaml](openapi.yaml).

"""


def page() -> str:
    api = document()
    parts = [_INTRODUCTION + api["info"]["description"], *_table(api["paths"])]
    for path, operations in api["paths"].items():
        parts += _path(path, operations, api["components"])
    parts += ["## Headers of answers", "", *_headers(api["components"]["headers"])]
    return "\n".join(parts)


def _table(paths: Mapping[str, Any]) -> Iterator[str]:
    yield from ("| path | methods | |", "|---|---|---|")
    for path, operations in paths.items():
        methods = [each.upper() for each in operations if each != "parameters"]
        yield f"| [`{path}`](#{_anchor(path)}) | {', '.join(methods)} | {_main(operations)['summary']} |"
    yield ""


def _path(path: str, operations: Mapping[str, Any], components: Mapping[str, Any]) -> Iterator[str]:
    told = _main(operations)
    yield from (f"## `{path}` {{#{_anchor(path)}}}", "", f"{told['summary']}. {told.get('description', '')}", "")
    asked = told.get("requestBody", {}).get("content", {}).get("application/json")
    if asked is not None:
        body = json.dumps(asked["example"], ensure_ascii=False)
        method = "" if "post" in operations else "-X DELETE "
        yield from ("```sh", f"curl {method}http://127.0.0.1:11434{path} -d '{body}'", "```", "")
        yield from _fields(_named(asked["schema"], components), "field")
    for each in (_named(each, components) for each in told.get("parameters", ())):
        yield f"- `{each['name']}`: {each['description']}"
    yield ""
    for kind, content in told["responses"].get("200", {"content": {}})["content"].items():  # some only lead on
        yield f"Answers `{kind}`:"
        yield ""
        yield from _fields(_named(content["schema"], components), "of the answer")


def _fields(schema: Mapping[str, Any], title: str) -> Iterator[str]:
    if "properties" not in schema:
        yield from ("text", "")
        return
    yield from (f"| {title} | type | |", "|---|---|---|")
    for name, each in schema["properties"].items():
        needed = "always" if name in schema.get("required", ()) else ""
        words = "; ".join(filter(None, [needed, each.get("description", "")]))
        yield f"| `{name}` | {_type(each)} | {words} |"
    yield ""


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return "object"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    given = schema.get("type", "any")
    return " or ".join(given) if isinstance(given, list) else str(given)


def _headers(headers: Mapping[str, Any]) -> Iterator[str]:
    return (f"- `{name}`: {each['description']}" for name, each in headers.items())


def _main(operations: Mapping[str, Any]) -> Mapping[str, Any]:
    main: Mapping[str, Any] = next(operations[each] for each in ("post", "get", "delete") if each in operations)
    return main


def _named(schema: Mapping[str, Any], components: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference leads to."""
    if "$ref" not in schema:
        return schema
    _, _, kind, name = schema["$ref"].split("/")
    found: Mapping[str, Any] = components[kind][name]
    return found


def _anchor(path: str) -> str:
    return path.strip("/").translate(str.maketrans("/.", "--", "{}")) or "root"
