"""GGUF files with a header and holes for weights: an engine lays out the same buffers for them as for a real model."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

Tensor: TypeAlias = tuple[str, tuple[int, ...], str]  # name, length of a row and numbers of rows, F32 or Q8_0

KINDS = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q8_0": (8, 32, 34)}
_ALIGNMENT = 32


def header(arch: str, metadata: Mapping[str, Any], tensors: Sequence[Tensor], vocab: int) -> tuple[bytes, int]:
    """A header as a file has it, and the bytes of the weights behind it."""
    values = {"general.architecture": arch, **{f"{arch}.{key}": value for key, value in metadata.items()}}
    values |= _tokenizer(vocab)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values))
    head += b"".join(text(key) + packed(value) for key, value in values.items())
    place = 0
    for name, sizes, kind in tensors:
        number, block, block_bytes = KINDS[kind]
        head += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, number, place)
        place += -(-(-(-prod(sizes) // block) * block_bytes) // _ALIGNMENT) * _ALIGNMENT
    return head + bytes(-len(head) % _ALIGNMENT), place


def write(path: Path, head: bytes, weights_bytes: int) -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + weights_bytes)


def _tokenizer(vocab: int) -> dict[str, Any]:
    """The least that llama.cpp takes for a vocabulary: bytes, three marks, and made-up words."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += [f"w{number}" for number in range(vocab - len(words))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.scores": [0.0] * vocab,
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * (vocab - 259)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def packed(value: Any) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + text(value)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        case [bool(), *_]:
            return struct.pack("<IIQ", 9, 7, len(value)) + bytes(value)
        case [float(), *_]:
            return struct.pack(f"<IIQ{len(value)}f", 9, 6, len(value), *value)
        case _:
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
