"""A model's shape from a registry, before anything is downloaded: its manifest, and the beginning of its weights.

Speaks the protocol of Ollama's registry (Docker's, version 2): `/v2/NAMESPACE/MODEL/manifests/TAG`, and blobs by digest
in pieces (`Range`). A header is a few megabytes, most of it the vocabulary; the weights behind it are not asked for.
A registry that knows no pieces is read only so far and then hung up on. A model that needs an account is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import aiohttp
import orjson

from orchestrator.core.errors import HostError
from orchestrator.core.gguf import read_shape
from orchestrator.core.gguf_types import GgufError
from orchestrator.core.manifests import Manifest, ModelName, read_manifest, split_name, with_layers_beside
from orchestrator.core.model import ModelShape

FIRST_PIECE_BYTES: Final = 1 << 20
MAX_HEADER_BYTES: Final = 128 << 20  # the largest vocabularies make headers of some 30 MB
_MAX_MANIFEST_BYTES: Final = 4 << 20
_ACCEPT: Final = "application/vnd.docker.distribution.manifest.v2+json"
_LIMITS: Final = aiohttp.ClientTimeout(total=300.0, sock_connect=10.0, sock_read=30.0)


@dataclass(frozen=True, slots=True)
class Found:
    """What a registry tells of a model. `read_bytes`: how much of the weights was read for it."""

    shape: ModelShape
    manifest: Manifest
    read_bytes: int


async def look_up(http: aiohttp.ClientSession, model: str, base_url: str = "") -> Found:
    """The shape of `model` in its registry. `base_url`: another server that speaks for the name's host.

    Raises HostError: the name is none, the registry is away or refuses, there is no such model, or its header makes no
    sense.
    """
    name = split_name(model)
    if name is None:
        raise HostError(f"{model!r} is no model's name")
    home = f"{(base_url or f'https://{name.host}').rstrip('/')}/v2/{name.namespace}/{name.model}"
    try:
        manifest = await _manifest(http, name, home)
        shape, read = await _shape(http, f"{home}/blobs/{manifest.weights.digest}", manifest.weights.size)
    except (aiohttp.ClientError, TimeoutError) as why:
        raise HostError(f"{model}: the registry at {home} does not answer: {why or type(why).__name__}") from why
    except GgufError as why:
        raise HostError(f"{model}: the registry's weights cannot be read: {why}") from why
    return Found(with_layers_beside(shape, manifest), manifest, read)


async def _manifest(http: aiohttp.ClientSession, name: ModelName, home: str) -> Manifest:
    async with http.get(f"{home}/manifests/{name.tag}", headers={"Accept": _ACCEPT}, timeout=_LIMITS) as reply:
        label = f"{name.namespace}/{name.model}:{name.tag}"
        if reply.status == 404:
            raise HostError(f"{label}: the registry at {home} has no such model")
        if reply.status in (401, 403):
            raise HostError(f"{label}: the registry at {home} wants an account; pull the model with Ollama instead")
        if reply.status != 200:
            raise HostError(f"{label}: the registry at {home} answered {reply.status}")
        text = await _at_most(reply, _MAX_MANIFEST_BYTES + 1)
    try:
        manifest = read_manifest(orjson.loads(text)) if len(text) <= _MAX_MANIFEST_BYTES else None
    except orjson.JSONDecodeError:
        manifest = None
    if manifest is None:
        raise HostError(f"{label}: the registry's answer at {home} is no manifest of a model with weights")
    return manifest


async def _shape(http: aiohttp.ClientSession, blob: str, size: int) -> tuple[ModelShape, int]:
    """The shape in a blob's header, and how many bytes were read: a first piece, and more until it is whole."""
    have = bytearray()
    wanted = min(FIRST_PIECE_BYTES, size)
    while True:
        have += await _piece(http, blob, len(have), wanted - len(have))
        try:
            return read_shape(have, size), len(have)
        except GgufError as why:
            if not why.more_bytes or len(have) >= size:
                raise
            needed = len(have) + why.more_bytes
        if needed > MAX_HEADER_BYTES:
            raise GgufError(f"a header of more than {MAX_HEADER_BYTES:,} bytes is not read")
        # The header says only how much is missing at least: doubling keeps the number of requests small.
        wanted = min(max(needed, 2 * len(have)), size, MAX_HEADER_BYTES)


async def _piece(http: aiohttp.ClientSession, blob: str, start: int, count: int) -> bytes:
    headers = {"Range": f"bytes={start}-{start + count - 1}"}
    async with http.get(blob, headers=headers, timeout=_LIMITS) as reply:
        if reply.status == 206:
            piece = await _at_most(reply, count)
        elif reply.status == 200:  # it knows no pieces: what was asked for lies further on
            piece = (await _at_most(reply, start + count))[start:]
        else:
            raise HostError(f"{blob}: the registry answered {reply.status}")
        if len(piece) < count:
            raise HostError(f"{blob}: the registry ended after {len(piece):,} of {count:,} bytes")
        return piece


async def _at_most(reply: aiohttp.ClientResponse, count: int) -> bytes:
    """The first `count` bytes of an answer, or all where it is shorter; what lies behind them is not waited for."""
    have = bytearray()
    while len(have) < count:
        more = await reply.content.read(count - len(have))
        if not more:
            break
        have += more
    if not reply.content.at_eof():
        reply.close()
    return bytes(have)
