"""The values that travel through the product; the words are those of docs/architecture.md.

Everything here is frozen: a changed cluster is a new `Snapshot`, never an edited one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NewType

from orchestrator.core.numbers import Followed

NodeName = NewType("NodeName", str)
InstanceId = NewType("InstanceId", str)
PoolName = NewType("PoolName", str)
LeaseId = NewType("LeaseId", str)
CallId = NewType("CallId", str)

# --- calls -----------------------------------------------------------------------------------------------------------


class Dialect(StrEnum):
    """Whose API the caller speaks: it decides the shape of answers, frames and errors."""

    OLLAMA = "ollama"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Endpoint(StrEnum):
    """The inference paths the gateway serves and the engines know; the value is the HTTP path."""

    OLLAMA_CHAT = "/api/chat"
    OLLAMA_GENERATE = "/api/generate"
    OLLAMA_EMBED = "/api/embed"
    OLLAMA_EMBEDDINGS = "/api/embeddings"
    OPENAI_CHAT = "/v1/chat/completions"
    OPENAI_COMPLETIONS = "/v1/completions"
    OPENAI_EMBEDDINGS = "/v1/embeddings"
    OPENAI_RESPONSES = "/v1/responses"
    ANTHROPIC_MESSAGES = "/v1/messages"
    ANTHROPIC_COUNT = "/v1/messages/count_tokens"

    # Asked a dozen times a call, so told once.
    dialect: Dialect
    is_embedding: bool
    is_answered_in_words: bool  # neither vectors nor a number of tokens are wanted
    is_chat: bool  # a conversation, in whatever form

    def __init__(self, path: str) -> None:
        is_younger = path in ("/v1/responses", "/v1/messages", "/v1/messages/count_tokens")
        v1 = Dialect.ANTHROPIC if path.startswith("/v1/messages") else Dialect.OPENAI
        self.dialect = Dialect.OLLAMA if path.startswith("/api/") else v1
        self.is_embedding = "embed" in path
        self.is_answered_in_words = not self.is_embedding and not path.endswith("/count_tokens")
        self.is_chat = is_younger or path.endswith(("/chat", "/chat/completions"))


@dataclass(frozen=True, slots=True)
class Call:
    """One caller's request, parsed once. `body` is the caller's JSON object, never changed in place."""

    endpoint: Endpoint
    model: str
    is_stream: bool
    body: Mapping[str, Any]


class Finish(StrEnum):
    """Why a whole answer ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole, successful answer, in no dialect: what the answer cache keeps and a dialect renders."""

    text: str
    finish: Finish = Finish.STOP
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0


# --- what hosts tell us ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds VRAM. `vram_bytes` is None where the driver will not say (containers, MIG)."""

    pid: int
    vram_bytes: int | None
    name: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One GPU (or MIG device) as NVML saw it; what the driver does not support is None, never a guess."""

    uuid: str
    index: int
    name: str
    vram_total_bytes: int
    vram_free_bytes: int
    vram_used_bytes: int
    processes: tuple[GpuProcess, ...] = ()
    utilisation_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    mig: str = "unsupported"  # "on" | "off" | "unsupported"
    ecc: str = "unsupported"  # "on" | "off" | "unsupported"
    parent_uuid: str | None = None  # of a MIG device: the card it is a slice of
    is_simulated: bool = False
    pci: str | None = None  # address as the system writes it; of a MIG device: its card's
    numa_node: int | None = None
    pcie_generation: int | None = None  # at its best: a resting card lowers both
    pcie_width: int | None = None


@dataclass(frozen=True, slots=True)
class GpuLink:
    """How near two cards of a host are: the PCIe path in words, and NVLinks between them."""

    uuids: tuple[str, str]
    path: str
    nvlinks: int = 0


@dataclass(frozen=True, slots=True)
class NumaNode:
    node: int
    cpus: str  # as the kernel lists them: `0-15,32-47`
    ram_total_bytes: int


@dataclass(frozen=True, slots=True)
class OllamaServer:
    """An `ollama serve` that runs on a host, whoever started it. What its host would not tell is None."""

    pid: int
    port: int | None
    user: str
    models_dir: str | None
    unit: str | None = None  # its systemd unit
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class ModelOnDisk:
    """A model whose files are all there."""

    name: str
    digest: str  # of its manifest, as Ollama tells it
    size_bytes: int


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What one host is and has, at one moment. `problems` are sentences for the operator, each with a way out."""

    node: NodeName
    hostname: str
    cpu_model: str
    cpu_count: int
    ram_total_bytes: int
    ram_free_bytes: int
    disk_free_bytes: int
    accelerators: tuple[Accelerator, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    problems: tuple[str, ...] = ()
    is_simulated: bool = False
    gpu_links: tuple[GpuLink, ...] = ()
    numa_nodes: tuple[NumaNode, ...] = ()
    ollamas: tuple[OllamaServer, ...] = ()
    models: tuple[ModelOnDisk, ...] = ()


# --- models, sizes, placements ---------------------------------------------------------------------------------------


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


# --- the cluster as published to the gateways ------------------------------------------------------------------------


class Engine(StrEnum):
    """What an instance runs; it decides which API the relay speaks to it."""

    OLLAMA = "ollama"  # Ollama's and OpenAI's paths
    LLAMA_CPP = "llama.cpp"  # OpenAI's paths only


class InstanceState(StrEnum):
    STARTING = "starting"  # its process is not answering yet
    LOADING = "loading"  # answering; its model is being pulled or loaded
    SERVING = "serving"  # its slots may be leased
    COLD = "cold"  # answering; its model is loaded when it is asked for
    DRAINING = "draining"  # finishes what it has, gets nothing new
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Instance:
    """One engine process with its own port, pinned to accelerators, serving one pool."""

    id: InstanceId
    node: NodeName
    pool: PoolName
    host: str
    port: int
    engine: Engine
    upstream_model: str  # the name the engine knows the model by
    slots: int
    context: int
    accelerators: tuple[str, ...] = ()
    state: InstanceState = InstanceState.STARTING
    reason: str = ""  # why it is not serving, for people
    is_simulated: bool = False
    vram_bytes: int = 0  # footprint promised by the placement
    kv_bytes: int = 0  # of that: the KV cache
    engine_version: str = ""
    is_given: bool = False  # somebody else runs it: it is watched, its models are loaded and unloaded, no more
    load_s: float = 0.0  # what a load of its model takes, as far as one can tell; 0: nobody can
    tls_name: str = ""  # whom its certificate names; '': it is spoken to without TLS

    @property
    def slots_offered(self) -> int | None:
        """Slots that may be leased now; 0 where calls may wait for the model to be loaded, None where in vain."""
        if self.state is InstanceState.SERVING:
            return self.slots
        return 0 if self.is_given and self.state in (InstanceState.COLD, InstanceState.LOADING) else None


@dataclass(frozen=True, slots=True)
class Pool:
    """All instances that serve one model with one context."""

    name: PoolName
    context: int
    is_embedding: bool
    instances: tuple[Instance, ...]
    details: Mapping[str, Any] = field(default_factory=dict)  # family, parameter_size, quantization_level, digest, size
    followed: Followed | None = None  # the number of instances that its load asks for; None: it follows no load

    @property
    def slots_serving(self) -> int:
        return sum(each.slots for each in self.instances if each.state is InstanceState.SERVING)


@dataclass(frozen=True, slots=True)
class Given:
    """A server that somebody else runs, as it was last seen. Each of its models is an `Instance` of a pool."""

    name: str
    url: str
    state: InstanceState  # STARTING before the first look, SERVING while it answers, DOWN
    reason: str = ""  # why it is down, for people
    engine: str = ""
    engine_version: str = ""
    models: tuple[str, ...] = ()  # those served, by pool
    resident: tuple[str, ...] = ()  # of these, those in its memory
    room: int | None = None  # models that it keeps in memory at once; None: not known


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the controller publishes and every gateway serves by, until a newer one comes."""

    version: int
    published_at_unix_ms: int
    pools: tuple[Pool, ...]
    nodes: tuple[NodeFacts, ...] = ()
    notes: tuple[str, ...] = ()  # sentences for the operator: what is missing, simulated or refused
    given: tuple[Given, ...] = ()  # servers that somebody else runs
    deployment: int = 0  # the number of the one that the controller has taken up; 0: none
    is_settled: bool = False  # nothing is left to start, stop or change for it on nodes that can be reached
    unreachable: Mapping[NodeName, str] = field(default_factory=dict)  # nodes that cannot be, each with why

    def pool(self, name: str) -> Pool | None:
        return next((each for each in self.pools if each.name == name), None)


# --- what happened ---------------------------------------------------------------------------------------------------


class Moment(StrEnum):
    """What kind of thing happened to the fleet."""

    STARTED = "started"  # an instance's process was begun
    SERVING = "serving"
    RESTARTED = "restarted"  # its process ended, and is begun again
    DOWN = "down"
    DRAINED = "drained"  # it gets nothing new, and finishes what it has
    STOPPED = "stopped"
    MOVED = "moved"  # another stands in its place, elsewhere
    RESIZED = "resized"  # a pool followed its load
    CARD_LOST = "card-lost"
    CARD_BACK = "card-back"
    HOST_LOST = "host-lost"
    HOST_BACK = "host-back"
    VRAM_TAKEN = "vram-taken"  # by somebody else
    VRAM_BACK = "vram-back"
    DEPLOYMENT_BEGAN = "deployment-began"
    DEPLOYMENT_FINISHED = "deployment-finished"  # every instance of it serves
    DEPLOYMENT_FAILED = "deployment-failed"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, in one sentence for people. What it is not about stays empty."""

    at_unix_ms: int
    kind: Moment
    text: str
    node: str = ""
    instance: str = ""
    deployment: int = 0
