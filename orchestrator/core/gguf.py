"""What a GGUF file's header says of its model: the numbers that decide a footprint.

Knows the file format (github.com/ggml-org/ggml, docs/gguf.md, versions 2 and 3, little endian) and nothing of files or
networks: it reads what it is given, which may be only the file's beginning, and says how much more it needs. A header
comes from strangers, so every count in it is bounded before it is believed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any, Final, TypeAlias

from orchestrator.core.model import ModelShape

Bytes: TypeAlias = bytes | bytearray | memoryview | mmap

_MAX_METADATA: Final = 1 << 16
_MAX_TENSORS: Final = 1 << 17
_MAX_STRINGS: Final = 1 << 23  # over all arrays: the largest vocabularies and their merges hold about 800,000
_MAX_TEXT: Final = 1 << 24
_MAX_KEPT_ARRAY: Final = 4096  # longer arrays are vocabularies: counted, not kept
_MAX_DIMENSIONS: Final = 4
_STRING, _ARRAY = 8, 9
_SCALARS: Final = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip

# Elements and bytes of one block by tensor type: the structs of ggml-common.h, by the numbers of enum ggml_type.
# 4 is what early gpt-oss files call MXFP4.
TENSOR_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 4: ("MXFP4", 32, 17),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
}  # fmt: skip

# `general.file_type`, as enum llama_ftype of llama.h numbers it.
_FILE_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip

# Every nth layer looks back over the whole context, the others over a window: llama.cpp's set_swa_pattern by
# architecture. One that is not named here counts as if every layer kept the whole context, which is never too little.
_SLIDING_PERIOD: Final = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "gptoss": 2, "cohere2": 4}


class GgufError(ValueError):
    """The bytes are no header that can be read. `more_bytes`: how many are missing at least; 0: more do not help."""

    def __init__(self, message: str, more_bytes: int = 0) -> None:
        super().__init__(message)
        self.more_bytes = more_bytes


@dataclass(slots=True)
class _Tensors:
    """What the tensor table adds up to."""

    elements: int = 0
    bytes: int = 0
    by_type: dict[str, int] = field(default_factory=dict)
    input_table: int = 0
    has_output: bool = False


class _Reader:
    """A place in the bytes, that only moves forward."""

    def __init__(self, data: Bytes, file_bytes: int) -> None:
        self._data = data
        self._length = len(data)
        self._file_bytes = file_bytes
        self._strings_left = _MAX_STRINGS
        self.at = 0

    def need(self, count: int) -> None:
        """Raises GgufError unless `count` bytes are here, apart from those the file can never have."""
        end = self.at + count
        if end > max(self._file_bytes, self._length):
            raise GgufError(f"the header claims {end:,} bytes, but the file has {self._file_bytes:,}: it is damaged")
        if end > self._length:
            more = end - self._length
            raise GgufError(f"the header goes on: at least {more:,} more bytes are needed, {self._length:,} here", more)

    def scalar(self, form: str) -> Any:
        size = struct.calcsize(form)
        self.need(size)
        (value,) = struct.unpack_from(form, self._data, self.at)
        self.at += size
        return value

    def text(self) -> str:
        length = self.scalar("<Q")
        if length > _MAX_TEXT:
            raise GgufError(f"a text of {length:,} bytes in the header: it is damaged")
        self.need(length)
        (raw,) = struct.unpack_from(f"{length}s", self._data, self.at)
        self.at += length
        return bytes(raw).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A metadata value. Of an array too long to keep, or of texts, only the length is returned, as a `range`."""
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise GgufError(f"unknown kind of metadata {kind}: the file is damaged or newer than this reader")
        inner, count = self.scalar("<I"), self.scalar("<Q")
        if inner == _STRING:
            self._skip_texts(count)
            return range(count)
        if inner not in _SCALARS:
            raise GgufError(f"an array of kind {inner} in the header: it is damaged or newer than this reader")
        if count <= _MAX_KEPT_ARRAY:
            return [self.scalar(_SCALARS[inner]) for _ in range(count)]
        size = count * struct.calcsize(_SCALARS[inner])
        self.need(size)
        self.at += size
        return range(count)

    def _skip_texts(self, count: int) -> None:
        if count > self._strings_left:
            raise GgufError(f"arrays of more than {_MAX_STRINGS:,} texts in the header: it is damaged")
        self._strings_left -= count
        data, at, last, unpack = self._data, self.at, self._length - 8, struct.Struct("<Q").unpack_from
        for done in range(count):
            if at > last:
                self.at = at
                self.need(8 * (count - done))
            at += 8 + unpack(data, at)[0]
        self.at = at
        self.need(0)


def read_shape(data: Bytes, file_bytes: int) -> ModelShape:
    """The shape of the model whose GGUF file of `file_bytes` begins with `data`.

    Raises GgufError; its `more_bytes` is above 0 where a longer beginning of the same file would do.
    """
    reader = _Reader(data, file_bytes)
    tensor_count, metadata_count = _read_head(reader)
    metadata = _read_metadata(reader, metadata_count)
    alignment = _positive(metadata, "general.alignment", 32)
    tensors = _read_tensors(reader, tensor_count, alignment)
    start = _round_up(reader.at, alignment)
    if start + tensors.bytes - alignment >= file_bytes:
        missing = start + tensors.bytes - file_bytes
        raise GgufError(f"the file is cut short: its weights need {missing:,} more bytes; download it again")
    return _shape(metadata, tensors)


def _read_head(reader: _Reader) -> tuple[int, int]:
    magic = reader.scalar("<4s")
    if magic != b"GGUF":
        raise GgufError(f"not a GGUF file: it begins with {magic!r}")
    version = reader.scalar("<I")
    if version not in (2, 3):
        hint = ", a big-endian file" if version & 0xFFFF == 0 else ""
        raise GgufError(f"GGUF version {version}{hint} is not supported; 2 and 3 are, little endian")
    tensor_count, metadata_count = reader.scalar("<Q"), reader.scalar("<Q")
    if tensor_count > _MAX_TENSORS or metadata_count > _MAX_METADATA:
        raise GgufError(f"{tensor_count:,} tensors and {metadata_count:,} metadata values: the header is damaged")
    return tensor_count, metadata_count


def _read_metadata(reader: _Reader, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = reader.text()
        metadata[key] = reader.value(reader.scalar("<I"))
    return metadata


def _read_tensors(reader: _Reader, count: int, alignment: int) -> _Tensors:
    """The sums over the tensor table; a tensor's bytes are rounded up to `alignment`, as they lie in the file."""
    found = _Tensors()
    for _ in range(count):
        name = reader.text()
        dimensions = reader.scalar("<I")
        if dimensions > _MAX_DIMENSIONS:
            raise GgufError(f"tensor {name[:80]!r} has {dimensions} dimensions: the header is damaged")
        elements = 1
        for _ in range(dimensions):
            elements *= reader.scalar("<Q")
        kind, _offset = reader.scalar("<I"), reader.scalar("<Q")
        if kind not in TENSOR_TYPES:
            raise GgufError(f"tensor {name[:80]!r} is of type {kind}, newer than this reader")
        label, block, block_bytes = TENSOR_TYPES[kind]
        size = _round_up(-(-elements // block) * block_bytes, alignment)
        found.elements += elements
        found.bytes += size
        found.by_type[label] = found.by_type.get(label, 0) + size
        found.has_output |= name == "output.weight"
        found.input_table += size if name == "token_embd.weight" else 0
    return found


def _shape(metadata: Mapping[str, Any], tensors: _Tensors) -> ModelShape:
    arch = metadata.get("general.architecture")
    if not isinstance(arch, str) or not arch:
        raise GgufError("the header names no architecture (general.architecture)")
    layers = _positive(metadata, f"{arch}.block_count")
    embedding = _positive(metadata, f"{arch}.embedding_length")
    heads = _positive(metadata, f"{arch}.attention.head_count", 1)
    window = _number(metadata, f"{arch}.attention.sliding_window")
    largest = max(tensors.by_type, key=lambda label: tensors.by_type[label], default="unknown")
    return ModelShape(
        arch=arch,
        parameters=tensors.elements or _number(metadata, "general.parameter_count"),
        layers=layers,
        heads=heads,
        kv_heads=_kv_heads(metadata, arch, layers, heads),
        head_dim=_head_dim(metadata, arch, embedding, heads),
        embedding_length=embedding,
        vocab=_vocab(metadata, arch),
        context_length=_positive(metadata, f"{arch}.context_length"),
        weights_bytes=tensors.bytes,
        quantisation=_FILE_TYPES.get(_number(metadata, "general.file_type", -1), largest),
        is_embedding=_number(metadata, f"{arch}.pooling_type") > 0,
        source="GGUF header",
        feed_forward_length=_feed_forward(metadata, arch),
        sliding_window=window,
        sliding_layers=_sliding_layers(metadata, arch, layers) if window else 0,
        # llama.cpp leaves the input table in host memory; a model without an output of its own uses the table for
        # both, and then a copy of it is on the GPU.
        host_bytes=tensors.input_table if tensors.has_output else 0,
    )


def _kv_heads(metadata: Mapping[str, Any], arch: str, layers: int, heads: int) -> int:
    """KV heads of a layer; where layers differ, their mean rounded up, so that the whole cache is never too small."""
    found = metadata.get(f"{arch}.attention.head_count_kv", heads)
    if isinstance(found, list) and found:
        return max(1, -(-sum(found) // min(layers, len(found))))
    return found if isinstance(found, int) and found > 0 else heads


def _head_dim(metadata: Mapping[str, Any], arch: str, embedding: int, heads: int) -> int:
    default = -(-embedding // heads)
    key = _number(metadata, f"{arch}.attention.key_length", default)
    return max(key, _number(metadata, f"{arch}.attention.value_length", key))


def _feed_forward(metadata: Mapping[str, Any], arch: str) -> int:
    """Width of the feed-forward layer a token passes: the dense one, or that of all experts it uses."""
    dense = _number(metadata, f"{arch}.feed_forward_length")
    one = _number(metadata, f"{arch}.expert_feed_forward_length", dense)
    shared = _number(metadata, f"{arch}.expert_shared_feed_forward_length")
    return max(dense, one * _number(metadata, f"{arch}.expert_used_count") + shared)


def _sliding_layers(metadata: Mapping[str, Any], arch: str, layers: int) -> int:
    pattern = metadata.get(f"{arch}.attention.sliding_window_pattern")
    if isinstance(pattern, list) and len(pattern) >= layers:
        return sum(1 for each in pattern[:layers] if each)
    period = pattern if isinstance(pattern, int) and pattern > 1 else _SLIDING_PERIOD.get(arch, 1)
    return sum(1 for layer in range(layers) if layer % period < period - 1)


def _vocab(metadata: Mapping[str, Any], arch: str) -> int:
    tokens = metadata.get("tokenizer.ggml.tokens", ())
    return max(len(tokens) if isinstance(tokens, range) else 0, _number(metadata, f"{arch}.vocab_size"))


def _number(metadata: Mapping[str, Any], key: str, default: int = 0) -> int:
    """A whole number, of an array its largest; `default` where there is none."""
    found = metadata.get(key)
    if isinstance(found, list) and found:
        found = max(found)
    return found if isinstance(found, int) and found >= 0 else default


def _positive(metadata: Mapping[str, Any], key: str, default: int = 0) -> int:
    found = _number(metadata, key, default)
    if not 0 < found < 1 << 32:
        raise GgufError(f"the header has no usable {key}")
    return found


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
