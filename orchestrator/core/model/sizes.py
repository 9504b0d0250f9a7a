"""Models by the numbers that decide their footprint, what is asked of placement, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.model.ids import InstanceId, NodeName, PoolName


@dataclass(frozen=True, slots=True)
class CacheLayers:
    """Layers that keep the same of each token: `key_width` and `value_width` numbers, of `window` tokens or (0) all."""

    layers: int
    key_width: int
    value_width: int  # 0: V is read out of K (latent attention)
    window: int = 0


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers of a model that decide its footprint; from a GGUF header or the catalogue. `source` says which."""

    arch: str
    parameters: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    embedding_length: int
    vocab: int
    context_length: int  # trained length, tokens
    weights_bytes: int  # tensors alone, without the tokenizer in the file
    quantisation: str
    is_embedding: bool = False
    source: str = ""
    feed_forward_length: int = 0  # width of the widest layer one token passes: all experts it uses; 0: not known
    sliding_window: int = 0  # tokens kept by the layers that look back only so far
    sliding_layers: int = 0  # how many layers those are
    host_bytes: int = 0  # of weights_bytes: the input table, kept in host memory where the rest is on a GPU
    output_bytes: int = 0  # of weights_bytes: what is in no layer and goes with the output; 0: not known
    caches: tuple[CacheLayers, ...] = ()  # by kind of layer; empty: every layer alike, from the numbers above
    state_bytes: int = 0  # what recurrent layers keep of a text, however long it is
    state_layers: int = 0  # how many layers those are
    experts: int = 0  # in a layer that has some
    experts_used: int = 0  # of them, by one token
    expert_bytes: int = 0  # of weights_bytes: all experts together
    attention_width: int = 0  # values of a token that attention holds at once; 0: three query widths
    recurrent_width: int = 0  # the same of recurrent layers
    carried_width: int = 0  # values of a token that are held besides, from the first layer to the last
    vision_bytes: int = 0  # of weights_bytes: towers that read images or sound


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory one instance needs, in bytes by part; `runtime` is the CUDA context (0 on a CPU).

    The last three say how it splits over cards; they are in the parts above already.
    """

    weights: int
    kv_cache: int  # with what recurrent layers keep
    compute: int
    output: int
    runtime: int
    step_inputs: int = 0  # of `compute`: what a step reads, of which every card holds copies
    output_weights: int = 0  # of `weights`: what lies behind the last layer, whole on the last card
    uneven: int = 0  # of `kv_cache`: what the layer that keeps most has above the mean of all layers

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute + self.output + self.runtime


@dataclass(frozen=True, slots=True)
class UsualCall:
    """What a pool's calls are like: tokens read and written, and the seconds an answer may take (None: any)."""

    prompt_tokens: int = 512
    answer_tokens: int = 256
    answer_s: float | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """What a pool asks of placement. `replicas_max` None: as many as fit after every pool has its minimum."""

    pool: PoolName
    shape: ModelShape
    context: int  # tokens of one slot
    slots: int  # requests one instance serves at once
    kv_type: str = "f16"
    replicas_min: int = 1
    replicas_max: int | None = 1
    share: float = 1.0  # of the room left over, against the other pools
    load: float | None = None  # calls at work at once at its busiest: no copies beyond these; None: not known
    usual: UsualCall | None = None  # with a goal only calls within it count as served
    per_card: int | None = None  # the most instances of it that share an accelerator; None: as many as fit
    hosts_min: int = 1  # different nodes that its copies should be on
    nodes: tuple[NodeName, ...] = ()  # the only nodes it may go to; none: all
    apart: tuple[PoolName, ...] = ()  # pools that it never shares an accelerator with
    beside: tuple[PoolName, ...] = ()  # pools of which each accelerator it goes to must have one


@dataclass(frozen=True, slots=True)
class Placement:
    """One instance wanted: where, what and how large. `accelerators` empty: the CPU and its memory."""

    instance: InstanceId
    pool: PoolName
    node: NodeName
    accelerators: tuple[str, ...]
    slots: int
    context: int
    footprint: Footprint
    why: str


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """Every instance wanted, and one sentence for each pool that could not have what it asked for."""

    placements: tuple[Placement, ...]
    refused: tuple[tuple[PoolName, str], ...] = ()
    notes: tuple[tuple[PoolName, str], ...] = ()  # placed, but not all that was hoped for: load or hosts are short
