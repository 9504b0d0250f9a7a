"""What a GGUF file's header says of its model: the numbers that decide a footprint.

Knows the file format (github.com/ggml-org/ggml, docs/gguf.md, versions 2 and 3, little endian) and nothing of files or
networks: it reads what it is given, which may be only the file's beginning, and says how much more it needs. A header
comes from strangers, so every count in it is bounded before it is believed.
"""

from __future__ import annotations

import struct
from mmap import mmap
from typing import Any, Final, TypeAlias

from orchestrator.core.gguf_shape import shape_of
from orchestrator.core.gguf_types import TENSOR_TYPES, GgufError, TensorSums
from orchestrator.core.layers import number_of
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
    alignment = number_of(metadata, "general.alignment", 32)
    if not 0 < alignment < 1 << 32:
        raise GgufError("the header has no usable general.alignment")
    tensors = _read_tensors(reader, tensor_count, alignment)
    start = _round_up(reader.at, alignment)
    if start + tensors.bytes - alignment >= file_bytes:
        missing = start + tensors.bytes - file_bytes
        raise GgufError(f"the file is cut short: its weights need {missing:,} more bytes; download it again")
    return shape_of(metadata, tensors)


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


def _read_tensors(reader: _Reader, count: int, alignment: int) -> TensorSums:
    """The sums over the tensor table; a tensor's bytes are rounded up to `alignment`, as they lie in the file."""
    found = TensorSums()
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
        found.add(name, label, elements, size)
    return found


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
