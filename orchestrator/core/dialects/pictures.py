"""Pictures in a call: how many, and how large they are once they are unpacked.

A picture of a few kilobytes may say that it has a billion pixels, and an engine that takes its word needs gigabytes.
Only the first bytes are read, where each format says its size; what is no picture is left for the engine to refuse.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

from orchestrator.core.dialects.conversation import chat_messages
from orchestrator.core.dialects.errors import caller_error
from orchestrator.core.model import Call, Endpoint

# Anthropic's API takes 8000 x 8000 at most, the largest of all that say.
PIXELS_AT_MOST: Final = 64_000_000
# A JPEG says its size behind all else that it tells of itself, previews and colours.
_LOOKED_AT: Final = 256 * 1024
_JPEG_SIZES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


def check_pictures(call: Call, at_most: int) -> None:
    """Raise CallerError 400 for more pictures than `at_most`, or for one too large to be unpacked."""
    for count, picture in enumerate(pictures(call), start=1):
        if count > at_most:
            raise caller_error(400, f"a call may have {at_most} images at most (limits.images)")
        width, height = size_of(picture)
        if width * height > PIXELS_AT_MOST:
            raise caller_error(400, f"image {count} has {width} x {height} pixels, {PIXELS_AT_MOST} are the most")


def pictures(call: Call) -> Iterator[str]:
    """Each picture of a call, in base64."""
    if call.endpoint.is_chat:
        for message in chat_messages(call):
            yield from _of_message(message or {})
    elif call.endpoint is Endpoint.OLLAMA_GENERATE:
        yield from _texts(call.body.get("images"))


def _of_message(message: Mapping[str, Any]) -> Iterator[str]:
    yield from _texts(message.get("images"))
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        url = part.get("image_url") if isinstance(part, dict) else None
        url = url.get("url") if isinstance(url, dict) else url
        if isinstance(url, str):
            yield url.partition(",")[2]


def _texts(images: object) -> Iterator[str]:
    if isinstance(images, list):
        yield from (each for each in images if isinstance(each, str))


def size_of(base64: str) -> tuple[int, int]:
    """Width and height as a picture states them; (0, 0) where that is not known."""
    try:
        data = binascii.a2b_base64(base64[: _LOOKED_AT // 3 * 4])
    except (binascii.Error, ValueError):
        return 0, 0
    try:
        return _size(data)
    except (struct.error, IndexError):
        return 0, 0


def _size(data: bytes) -> tuple[int, int]:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _pair(">II", data, 16)
    if data.startswith(b"GIF8"):
        return _pair("<HH", data, 6)
    if data.startswith(b"BM"):
        width, height = _pair("<ii", data, 18)
        return abs(width), abs(height)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    return _jpeg(data) if data.startswith(b"\xff\xd8") else (0, 0)


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = _pair("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _jpeg(data: bytes) -> tuple[int, int]:
    """Segment by segment to the one that begins a frame."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return 0, 0
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _JPEG_SIZES:
            height, width = _pair(">HH", data, at + 5)
            return width, height
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        else:
            at += 2 + _pair(">HH", data, at + 2)[0]
    return 0, 0


def _pair(form: str, data: bytes, at: int) -> tuple[int, int]:
    first, second = struct.unpack_from(form, data, at)
    return first, second
