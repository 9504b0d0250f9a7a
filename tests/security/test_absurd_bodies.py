"""Bodies that are small to send and large to take in: each is refused for what it is, and nobody else notices."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from orchestrator.core.cachekey import answer_key
from orchestrator.core.dialects import parse
from orchestrator.core.dialects.parse import parse_call, turns
from orchestrator.core.dialects.pictures import PIXELS_AT_MOST, size_of
from orchestrator.core.errors import CallerError
from orchestrator.core.faq import question_of
from orchestrator.core.model import Endpoint, Engine
from orchestrator.core.privacy.texts import texts_of
from orchestrator.gateway.bodies import VALUES_AT_MOST, check_values
from orchestrator.gateway.orders import order_for
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import Reply, ask, body_for
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import StandIn
from tests.security.doors import limits

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTEXT = 4096
MIB = 2**20
PATHS = [each.value for each in Endpoint]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, instance: StandIn) -> AsyncIterator[Played]:
    settings = ClusterSettings.model_validate({"models": {"m": {}}, "limits": {"images": 3}})
    pool = pool_of("m", [instance.port], context=CONTEXT)
    async with played(tmp_path_factory.mktemp("absurd"), settings, [pool]) as world:
        yield world
        assert world.gateways[0].poll() is None
        assert "Traceback" not in world.logs()


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def still_serves(world: Played) -> AsyncIterator[None]:
    yield
    assert (await ask(world.url, "/api/chat", "hi", stream=False)).status == 200


async def post(world: Played, path: str, raw: bytes, **headers: str) -> Reply:
    async with aiohttp.ClientSession() as http, http.post(world.url + path, data=raw, headers=headers) as reply:
        return Reply(reply.status, reply.headers, await reply.read())


# --- packed -----------------------------------------------------------------------------------------------------------

BODY = json.dumps(body_for("/api/chat", "hi", stream=False)).encode()
BOMB = gzip.compress(b" " * (40 * MIB) + BODY)
PACKED = {
    "a bomb": (BOMB, "gzip", 413),
    "a bomb of the other kind": (zlib.compress(b" " * (40 * MIB)), "deflate", 413),
    "a bomb within a bomb": (gzip.compress(BOMB), "gzip, gzip", 415),
    "a bomb within a bomb that says it is one": (gzip.compress(BOMB), "gzip", 400),
    "two behind each other": (gzip.compress(BODY) + gzip.compress(BODY), "gzip", 400),
    "something behind it": (gzip.compress(BODY) + b"{}", "gzip", 400),
    "unpacked and said to be": (BODY, "identity", 200),
    "packed": (gzip.compress(BODY), "gzip", 200),
    "nothing": (b"", "gzip", 400),
}


@pytest.mark.parametrize("kind", PACKED)
async def test_what_is_packed_grows_no_further_than_a_body_may(world, kind):
    raw, coding, status = PACKED[kind]
    reply = await post(world, "/api/chat", raw, **{"Content-Encoding": coding})
    assert reply.status == status, reply.body


# --- deep and wide ----------------------------------------------------------------------------------------------------

# Where readers and writers of JSON give up, and Python's stack.
DEPTHS = (100, 254, 255, 498, 502, 960, 1000, 1024, 100_000)
FIELDS = ("messages", "input", "tools", "format", "options", "metadata", "unknown", "model")
AROUND = (
    b"%s",
    b'[{"role":"user","content":%s}]',
    b'[{"type":"function","function":{"name":"f","parameters":%s}}]',
)
POOLS = (pool_of("m", [1]), pool_of("m", [1], engine=Engine.LLAMA_CPP))


def nested(path: str, depth: int) -> Iterator[bytes]:
    """Bodies with so many levels, everywhere; each once more with something behind it, which only a slower reader
    takes."""
    for field, around in itertools.product(FIELDS, AROUND):
        asked = {name: value for name, value in body_for(path, "hi", stream=False).items() if name != field}
        for opened, within, closed in ((b"[", b"", b"]"), (b'{"a":', b"1", b"}")):
            tree = around.replace(b"%s", opened * depth + within + closed * depth)
            raw = json.dumps(asked).encode()[:-1] + b', "' + field.encode() + b'": ' + tree + b"}"
            yield from (raw, raw + b" behind it")


@pytest.mark.parametrize("endpoint", Endpoint)
async def test_json_of_any_depth_anywhere_is_understood_or_refused(endpoint):
    for raw in itertools.chain.from_iterable(nested(endpoint.value, depth) for depth in DEPTHS):
        with suppress(CallerError):
            call = parse_call(endpoint, raw)
            question = question_of(turns(call), call.body) or ""
            answer_key(tenant="", target="m", call=call, secret=b"s" * 32, question=question)
            texts_of(call.body)
            for pool in POOLS:
                order_for(call, pool, pool.instances[0], limits(), 0)


@pytest.mark.parametrize("path", PATHS)
async def test_json_that_is_too_deep_is_refused_in_the_callers_dialect(world, path):
    for depth in (600, 100_000):
        raw = b'{"model": "m", "unknown": ' + b"[" * depth + b"]" * depth + b"}"
        reply = await post(world, path, raw)
        assert (reply.status, b"exceeded max depth" in reply.body) == (400, True)
    assert (await post(world, path, b"[" * 2_000_000)).status == 413


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/api/show"])
@pytest.mark.parametrize("value", [b"[]", b"{}", b"1", b'""', b'{"a":1}'])
async def test_a_body_of_millions_of_values_is_refused_before_they_are_made(world, path, value):
    raw = b'{"model": "m", "messages": [' + (value + b",") * (8 * MIB // (len(value) + 1)) + value + b"]}"
    assert (await post(world, path, raw)).status == 413


async def test_words_are_no_values_whatever_stands_in_them():
    text = 'a, [b], {c}, "d", \\"e\\", \\\\' * 200_000
    check_values(json.dumps({"model": "m", "prompt": text}).encode())
    with pytest.raises(CallerError, match="values") as caught:
        check_values(json.dumps({"model": "m", "prompt": text, "context": [1] * (VALUES_AT_MOST + 1)}).encode())
    assert caught.value.status == 413


async def test_names_of_megabytes_are_refused_and_remembered_nowhere():
    for name in ("x" * MIB, "x" + " " * MIB, " " * MIB):
        before = (parse.canonical_model_name.cache_info().currsize, parse._is_model_name.cache_info().currsize)
        with pytest.raises(CallerError) as caught:
            parse_call(Endpoint.OLLAMA_CHAT, json.dumps(body_for("/api/chat", "hi", name)).encode())
        assert len(caught.value.message) < 2000
        assert before == (parse.canonical_model_name.cache_info().currsize, parse._is_model_name.cache_info().currsize)


@pytest.mark.parametrize("path", ["/api/show", "/api/feedback"])
async def test_what_is_no_call_needs_no_large_body(world, path):
    assert (await post(world, path, json.dumps({"model": "x" * 100_000}).encode())).status == 413


# --- pictures ---------------------------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def jpeg(width: int, height: int) -> bytes:
    preview = b"\xff\xe1" + struct.pack(">H", 2 + 60_000) + b"\xff\xc0" * 30_000
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 17, 8, height, width, 3) + b"\x01\x11\x00" * 3
    return b"\xff\xd8" + preview + preview + b"\xff" + frame


def webp(kind: bytes, width: int, height: int) -> bytes:
    if kind == b"VP8X":
        told = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        told = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
    else:
        told = b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return b"RIFF" + bytes(4) + b"WEBP" + kind + struct.pack("<I", 10) + told


PICTURES = {
    "png": png(30_000, 12_000),
    "jpeg": jpeg(30_000, 12_000),
    "gif": b"GIF89a" + struct.pack("<HH", 30_000, 12_000) + bytes(3),
    "bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, 30_000, -12_000),
    "webp": webp(b"VP8X", 30_000, 12_000),
    "webp without losses": webp(b"VP8L", 15_000, 12_000),
    "webp of old": webp(b"VP8 ", 15_000, 12_000),
}


def with_images(path: str, images: list[str]) -> dict[str, Any]:
    if path == "/v1/chat/completions":
        parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{each}"}} for each in images]
        return {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, *parts]}]}
    if path == "/v1/messages":
        sources = [{"type": "base64", "media_type": "image/png", "data": each} for each in images]
        blocks = [{"type": "image", "source": each} for each in sources]
        return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": blocks}]}
    if path == "/v1/responses":
        parts = [{"type": "input_image", "image_url": f"data:image/png;base64,{each}"} for each in images]
        return {"model": "m", "input": [{"role": "user", "content": parts}]}
    if path == "/api/generate":
        return {"model": "m", "prompt": "hi", "images": images, "stream": False}
    return {"model": "m", "messages": [{"role": "user", "content": "hi", "images": images}], "stream": False}


WITH_IMAGES = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages", "/v1/responses")


@pytest.mark.parametrize("path", WITH_IMAGES)
@pytest.mark.parametrize("kind", PICTURES)
async def test_a_picture_of_more_pixels_than_fit_into_memory_reaches_no_engine(world, instance, path, kind):
    before = len(instance.bodies)
    raw = json.dumps(with_images(path, [base64.b64encode(PICTURES[kind]).decode()])).encode()
    assert len(raw) < 300_000
    reply = await post(world, path, raw)
    assert (reply.status, b"pixels" in reply.body) == (400, True)
    assert len(instance.bodies) == before


@pytest.mark.parametrize("path", WITH_IMAGES)
async def test_a_call_has_as_many_pictures_as_the_settings_say(world, path):
    small = base64.b64encode(png(8, 8)).decode()
    for count, status in ((3, 200), (4, 400)):
        raw = json.dumps(with_images(path, [small] * count)).encode()
        for each in (raw, raw.replace(b"image", b"\\u0069mage")):  # its names may be escaped
            reply = await post(world, path, each)
            assert reply.status == status, reply.body
            assert (b"limits.images" in reply.body) is (status == 400)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_pictures_under_a_name_in_another_case_are_counted_too(world, path):
    raw = json.dumps(with_images(path, [base64.b64encode(png(8, 8)).decode()] * 4)).encode()
    reply = await post(world, path, raw.replace(b'"images"', b'"IMAGES"'))
    assert (reply.status, b"limits.images" in reply.body) == (400, True)


async def test_the_size_of_a_picture_is_read_wherever_its_format_says_it():
    assert size_of(base64.b64encode(png(640, 480)).decode()) == (640, 480)
    assert size_of(base64.b64encode(jpeg(640, 480)).decode()) == (640, 480)
    for kind in (b"VP8X", b"VP8L", b"VP8 "):
        assert size_of(base64.b64encode(webp(kind, 640, 480)).decode()) == (640, 480)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", b"GIF8", b"\xff\xd8\xff\xe1\0\0"]
)
async def test_of_half_a_picture_nothing_is_known(data):
    assert size_of(base64.b64encode(data).decode()) == (0, 0)
    assert size_of("no base64: ") == (0, 0)
    assert PIXELS_AT_MOST > 48_000_000, "a telephone's photograph"
