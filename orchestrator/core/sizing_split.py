"""An instance whose layers lie on several cards of one host: what each of them must have room for.

Knows how llama.cpp deals layers out (`llama_model_base::load_tensors`, llama-model.cpp) and which buffers it then has
more than once (`ggml_backend_sched_new`, ggml-backend.cpp). No machine with several cards was at hand: all of this is
taken from the source, and what is uncertain is counted in full.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from orchestrator.core.model import Footprint

# With a model on several cards steps overlap between them, and every card holds what a step reads this often
# (`GGML_SCHED_MAX_COPIES`): the masks, places and values that came from the card before.
PIPELINE_COPIES: Final = 4
# A margin: llama.cpp's K mixes quantise some layers finer (`use_more_bits`, llama-quant.cpp): the first and last
# eighth and every third between. Such a layer is this much heavier than the others in Q4_K_M, the mix where it is most.
HEAVY_LAYER: Final = 0.14


def split_footprint(whole: Footprint, layers: int, cards: int) -> Footprint:
    """The footprint of an instance whose layers lie on several cards; each card must hold an equal part of the total.

    `whole`: as it were on one card. Whole layers are dealt out by the cards' free memory, the output counting as one
    more; the fullest of equal cards is taken for all. Each card has a CUDA context and compute buffers of its own.
    """
    if cards == 1:
        return whole
    fullest = min(layers, -(-(layers + 1) // cards))
    body = whole.weights - whole.output_weights
    # The last card has one layer less than the fullest, and the output.
    weights = max(_part(body, fullest, layers), _part(body, fullest - 1, layers) + whole.output_weights)
    uneven_weights = int(body * fullest / layers * HEAVY_LAYER * _heavy_surplus(fullest, layers))
    return replace(
        whole,
        weights=(weights + uneven_weights) * cards,
        kv_cache=(_part(whole.kv_cache, fullest, layers) + whole.uneven) * cards,
        compute=(whole.compute + (PIPELINE_COPIES - 1) * whole.step_inputs) * cards,
        output=whole.output * cards,
        runtime=whole.runtime * cards,
    )


def per_card_bytes(whole: Footprint, cards: int) -> int:
    """What each of an instance's cards must have room for; `whole` as `split_footprint` gave it."""
    return -(-whole.total // max(1, cards))


def _heavy_surplus(fullest: int, layers: int) -> float:
    """How many more of its layers are heavy on the first card than in the whole model, as a share of its layers."""
    eighth = layers / 8
    heavy = min(fullest, eighth) + max(0.0, fullest - eighth) / 3
    return max(0.0, heavy / fullest - 0.5)


def _part(total: int, layers: int, of: int) -> int:
    return -(-total * layers // of)
