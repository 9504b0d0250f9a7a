"""The kinds of tensors a GGUF file holds, and what its table of tensors adds up to by where they go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

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

# Tables that a token is looked up in: on a GPU they stay in host memory (llama.cpp's input layer).
_INPUT_TABLES: Final = frozenset(
    {"token_embd.weight", "token_types.weight", "position_embd.weight", "per_layer_token_embd.weight"}
)
_TOWERS: Final = ("v.", "mm.", "a.")  # what reads images and sound, where it lies in the same file


class GgufError(ValueError):
    """The bytes are no header that can be read. `more_bytes`: how many are missing at least; 0: more do not help."""

    def __init__(self, message: str, more_bytes: int = 0) -> None:
        super().__init__(message)
        self.more_bytes = more_bytes


@dataclass(slots=True)
class TensorSums:
    """What the tensor table adds up to."""

    elements: int = 0
    bytes: int = 0
    by_type: dict[str, int] = field(default_factory=dict)
    word_table: int = 0
    other_tables: int = 0
    has_output: bool = False
    behind_layers: int = 0  # neither a table, nor in a layer, nor in a tower
    towers: int = 0
    experts: int = 0  # those of all layers
    has_dense: bool = False  # a feed-forward layer without experts

    def add(self, name: str, label: str, elements: int, size: int) -> None:
        self.elements += elements
        self.bytes += size
        self.by_type[label] = self.by_type.get(label, 0) + size
        self.has_output |= name == "output.weight"
        self.experts += size if "_exps." in name else 0
        self.has_dense |= name.endswith(".ffn_down.weight")
        if name == "token_embd.weight":
            self.word_table += size
        elif name in _INPUT_TABLES:
            self.other_tables += size
        elif name.startswith(_TOWERS):
            self.towers += size
        elif not name.startswith("blk."):
            self.behind_layers += size
