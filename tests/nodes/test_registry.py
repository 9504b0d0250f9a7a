"""A model's shape from a registry that speaks Ollama's protocol: how much is read for it, and what goes wrong."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from benchmarks.sizing.files import header
from benchmarks.sizing.layouts import LAYOUTS
from orchestrator.core.errors import HostError
from orchestrator.nodes.registry import FIRST_PIECE_BYTES, look_up

KIND = "application/vnd.ollama.image."


class Played:
    """A registry with one model, whose weights are a header and zeros that are never stored."""

    def __init__(self, head: bytes, weights_bytes: int) -> None:
        self.head, self.size = head, len(head) + weights_bytes
        self.digest = "sha256:" + hashlib.sha256(head).hexdigest()
        self.more_layers: list[dict[str, Any]] = []
        self.manifest: bytes | None = None
        self.status = 200
        self.knows_pieces = True
        self.asked: list[str] = []
        self.sent = 0

    async def manifests(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if self.status != 200:
            return web.Response(status=self.status)
        weights = {"mediaType": f"{KIND}model", "digest": self.digest, "size": self.size}
        told = {"schemaVersion": 2, "layers": [weights, *self.more_layers]}
        return web.Response(body=self.manifest if self.manifest is not None else orjson.dumps(told))

    async def blobs(self, request: web.Request) -> web.StreamResponse:
        # The real registry sends blobs from elsewhere.
        raise web.HTTPTemporaryRedirect(f"/elsewhere/{request.match_info['digest']}")

    async def elsewhere(self, request: web.Request) -> web.StreamResponse:
        assert request.match_info["digest"] == self.digest
        self.asked.append(request.headers["Range"])
        start, end = 0, self.size
        if self.knows_pieces:
            piece = request.http_range
            start, end = piece.start or 0, min(piece.stop or self.size, self.size)
        reply = web.StreamResponse(status=206 if self.knows_pieces else 200)
        reply.content_length = end - start
        await reply.prepare(request)
        for place in range(start, end, 1 << 16):
            part = self.head[place : min(end, place + (1 << 16))]
            try:
                await reply.write(part + bytes(min(1 << 16, end - place) - len(part)))
            except ConnectionError:  # whoever asked has read enough
                break
            self.sent += min(1 << 16, end - place)
        return reply


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def served(played: Played) -> tuple[web.AppRunner, str]:
    app = web.Application()
    app.router.add_get("/v2/{namespace}/{model}/manifests/{tag}", played.manifests)
    app.router.add_get("/v2/{namespace}/{model}/blobs/{digest}", played.blobs)
    app.router.add_get("/elsewhere/{digest}", played.elsewhere)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.fixture
async def registry() -> AsyncIterator[tuple[Played, str]]:
    """A registry with a model of 0.4 GB, whose header is longer than a first piece."""
    head, weights_bytes = header(*LAYOUTS["llama 8b"](), 70_000)
    played = Played(head, weights_bytes)
    runner, url = await served(played)
    yield played, url
    await runner.cleanup()


async def test_the_header_alone_is_read_and_no_more_than_twice_as_much(registry, http):
    played, url = registry
    found = await look_up(http, "llama3.1:8b", url)
    assert (found.shape.arch, found.shape.layers, found.shape.embedding_length) == ("llama", 2, 4096)
    assert found.shape.weights_bytes == played.size - len(played.head)
    assert played.asked[0] == "/v2/library/llama3.1/manifests/8b"
    assert FIRST_PIECE_BYTES < len(played.head) <= found.read_bytes <= 2 * len(played.head)
    assert found.read_bytes < played.size // 100


async def test_more_is_asked_for_from_where_the_last_piece_ended(registry, http):
    played, url = registry
    await look_up(http, "someone/mine", url)
    assert played.asked[0] == "/v2/someone/mine/manifests/latest"
    pieces = [tuple(map(int, each.removeprefix("bytes=").split("-"))) for each in played.asked[1:]]
    assert len(pieces) == 2
    assert pieces[0] == (0, FIRST_PIECE_BYTES - 1)
    assert pieces[1][0] == FIRST_PIECE_BYTES


async def test_a_registry_that_knows_no_pieces_is_hung_up_on(registry, http):
    played, url = registry
    played.knows_pieces = False
    found = await look_up(http, "llama3.1:8b", url)
    assert found.shape.layers == 2
    assert played.sent < played.size // 2


async def test_a_tower_in_a_file_of_its_own_is_counted(registry, http):
    played, url = registry
    played.more_layers = [
        {"mediaType": f"{KIND}projector", "digest": "sha256:" + "a" * 64, "size": 600_000_000},
        {"mediaType": f"{KIND}params", "digest": "sha256:" + "b" * 64, "size": 100},
    ]
    found = await look_up(http, "llama3.1:8b", url)
    assert found.shape.vision_bytes == 600_000_000
    assert found.shape.weights_bytes == played.size - len(played.head) + 600_000_000
    assert found.manifest.total_bytes == played.size + 600_000_100


@pytest.mark.parametrize(
    ("status", "words"), [(404, "has no such model"), (401, "wants an account"), (503, "answered 503")]
)
async def test_a_refusal_is_told_in_words(registry, http, status: int, words: str):
    played, url = registry
    played.status = status
    with pytest.raises(HostError, match=words):
        await look_up(http, "llama3.1:8b", url)


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"layers": []}', b'{"layers": [{"mediaType": 3}]}', b"x" * 5_000_000]
)
async def test_an_answer_that_is_no_manifest_is_refused(registry, http, body: bytes):
    played, url = registry
    played.manifest = body
    with pytest.raises(HostError, match="no manifest"):
        await look_up(http, "llama3.1:8b", url)


async def test_weights_that_are_no_gguf_are_refused_after_the_first_piece(http):
    played = Played(b"PK\x03\x04", 10_000_000)
    runner, url = await served(played)
    with pytest.raises(HostError, match="not a GGUF file"):
        await look_up(http, "llama3.1:8b", url)
    await runner.cleanup()
    assert len(played.asked) == 2


async def test_a_registry_that_is_away_is_told_with_its_address(http):
    with pytest.raises(HostError, match=r"http://127.0.0.1:1/v2/library/llama3.1 does not answer"):
        await look_up(http, "llama3.1", "http://127.0.0.1:1")


@pytest.mark.parametrize("name", ["", "a/b/c/d", "../etc/passwd", "x:y z", "host:70000000/a/b"])
async def test_what_is_no_name_is_not_asked_for(http, name: str):
    with pytest.raises(HostError, match="no model's name"):
        await look_up(http, name, "http://127.0.0.1:1")
