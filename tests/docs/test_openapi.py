"""docs/openapi.yaml is valid, is what the code says, and is what a gateway does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from docs.site.openapi import document, served, written
from orchestrator.core import origins
from orchestrator.core.dialects.frames import SSE_TYPE
from orchestrator.core.model import Endpoint
from orchestrator.settings import ClusterSettings
from tests.docs.pages import DOCS
from tests.gateway.asking import Reply, ask, get
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import standing_in

API: Mapping[str, Any] = yaml.safe_load((DOCS / "openapi.yaml").read_text(encoding="utf-8"))
EMBEDS = "nomic-embed-text"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
SETTINGS: dict[str, Any] = {
    "models": {"m": {}, EMBEDS: {"embedding": True}},
    "tiers": {"small": {"model": "m"}, "full": {"model": "m"}},
    "routes": {"auto": {}},
}
ADMIN = {"Authorization": "Bearer 0123456789abcdef0123456789abcdef"}
GUEST = {"X-Api-Key": "fedcba9876543210fedcba9876543210"}
BOSS = {"Authorization": "Bearer 00112233445566778899aabbccddeeff"}
KEYS = [
    {"name": "operator", "secret": ADMIN["Authorization"].removeprefix("Bearer "), "admin": True},
    {"name": "boss", "secret": BOSS["Authorization"].removeprefix("Bearer "), "scopes": ["models"]},
    {"name": "guest", "secret": GUEST["X-Api-Key"]},
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Played]:
    """A gateway with a chat model, one that embeds, and keys."""
    settings = ClusterSettings.model_validate({**SETTINGS, "keys": KEYS})
    async with standing_in(2) as instances:
        pools = [
            pool_of("m", [instances[0].port]),
            pool_of(EMBEDS, [instances[1].port], is_embedding=True),
        ]
        async with played(tmp_path, settings, pools) as world:
            yield world


def assert_described(path: str, method: str, reply: Reply, body: object) -> None:
    """The body, or a part of a streamed one, is what the description says of such an answer."""
    answers = API["paths"][path][method]["responses"]
    told = answers.get(str(reply.status)) or answers[f"{reply.status // 100}XX"]
    if "$ref" in told:
        told = API["components"]["responses"][told["$ref"].rpartition("/")[2]]
    schema = told["content"][reply.headers["Content-Type"].partition(";")[0]]["schema"]
    assert [each.message for each in checker(schema).iter_errors(body)] == [], path


def checker(schema: Mapping[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": API["components"]})


def examples() -> dict[str, dict[str, Any]]:
    """A body for each path that takes one."""
    posts = {path: each["post"]["requestBody"]["content"] for path, each in API["paths"].items() if "post" in each}
    json_type = "application/json"
    return {path: each[json_type]["example"] for path, each in posts.items() if json_type in each}


def frames(body: bytes) -> list[Any]:
    lines = (line.removeprefix(b"data: ") for line in body.splitlines() if not line.startswith(b"event:"))
    return [json.loads(line) for line in lines if line and line != b"[DONE]"]


def test_it_is_a_valid_description():
    validate(document())


def test_it_is_what_the_code_says():
    text = (DOCS / "openapi.yaml").read_text(encoding="utf-8")
    assert text == written(), "put today's into place: python -m docs.site.openapi > docs/openapi.yaml"


def test_every_path_that_is_served_is_in_it_with_its_methods():
    told = {path: {each.upper() for each in methods if each != "parameters"} for path, methods in API["paths"].items()}
    assert told == {path: set(each.methods) for path, each in served().items()}


def test_every_header_that_pages_may_read_is_in_it():
    assert {each.lower() for each in origins.EXPOSED_HEADERS.split(",")} <= {
        each.lower() for each in API["components"]["headers"]
    }


@pytest.mark.parametrize("path", examples())
def test_an_example_is_as_its_schema_wants_it(path):
    content = API["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    checker(content["schema"]).validate(content["example"])


async def test_every_path_in_it_is_served_by_these_methods_alone(world):
    async with aiohttp.ClientSession(headers=ADMIN) as http:
        for path, methods in API["paths"].items():
            for method in METHODS:
                url = world.url + path.replace("{model}", "auto")
                async with http.request(method, url) as reply:
                    text = await reply.text() if reply.status == 404 else ""
                assert (reply.status == 405) is (method.lower() not in methods), (method, path)
                assert "404 page not found" not in text, path


async def test_a_key_is_asked_for_where_it_says_so(world):
    async with aiohttp.ClientSession() as http:
        for path, methods in API["paths"].items():
            for method, told in methods.items():
                if method in ("parameters", "head"):
                    continue
                url = world.url + path.replace("{model}", "auto")
                async with http.request(method, url) as reply:
                    assert (reply.status == 401) is bool(told["security"]), (method, path)
                async with http.request(method, url, headers=GUEST) as reply:
                    assert (reply.status == 403) is ("403" in told["responses"]), (method, path)


async def test_what_paths_without_a_body_answer_is_as_described(world):
    for path, methods in API["paths"].items():
        answer = methods.get("get", {}).get("responses", {}).get("200")
        if answer is None or SSE_TYPE in answer["content"]:
            continue  # it leads on, or is a stream that has no end
        reply = await get(world.url, path.replace("{model}", "auto"), headers=ADMIN)
        assert reply.status == 200, path
        is_json = "json" in reply.headers["Content-Type"]
        assert_described(path, "get", reply, reply.json() if is_json else reply.body.decode())


async def test_every_way_of_asking_is_answered_as_described(world):
    for endpoint in Endpoint:
        asked = examples()[endpoint.value] | {"model": EMBEDS if endpoint.is_embedding else "m"}
        is_streamed = len(API["paths"][endpoint.value]["post"]["responses"]["200"]["content"]) > 1
        for is_stream in (False, True) if is_streamed else (False,):
            reply = await ask(world.url, endpoint.value, "", headers=ADMIN, **(asked | {"stream": is_stream}))
            assert reply.status == 200, reply.body
            assert "X-Request-Id" in reply.headers
            for each in frames(reply.body) if is_stream else [reply.json()]:
                assert_described(endpoint.value, "post", reply, each)


async def test_a_refusal_is_as_described(world):
    for path in examples():
        is_for_boss = "403" in API["paths"][path]["post"]["responses"] and path.startswith("/api/")
        headers = BOSS if is_for_boss else ADMIN
        reply = await ask(world.url, path, "", headers=headers, model="no such model", key="none", verdict="wrong")
        assert reply.status in (400, 404), reply.body
        assert_described(path, "post", reply, reply.json())


async def test_a_wrong_hit_is_reported_as_described(world):
    asked = examples()["/api/chat"]
    await ask(world.url, "/api/chat", "", headers=ADMIN, **asked)
    hit = await ask(world.url, "/api/chat", "", headers=ADMIN, **asked)
    assert hit.cache == "hit"
    body = {"key": hit.headers["X-Cache-Key"], "verdict": "wrong"}
    reply = await ask(world.url, "/api/feedback", "", headers=ADMIN, **body)
    assert_described("/api/feedback", "post", reply, reply.json())
