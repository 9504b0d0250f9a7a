"""The cluster as the controller publishes it to the gateways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.core.model.hosts import NodeFacts
from orchestrator.core.model.ids import InstanceId, NodeName, PoolName
from orchestrator.core.numbers import Followed


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
