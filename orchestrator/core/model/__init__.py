"""The values that travel through the product; the words are those of docs/architecture.md.

Everything here is frozen: a changed cluster is a new `Snapshot`, never an edited one.
"""

from orchestrator.core.model.calls import Answer, Call, Dialect, Endpoint, Finish, ToolCall
from orchestrator.core.model.hosts import (
    Accelerator,
    GpuLink,
    GpuProcess,
    ModelOnDisk,
    NodeFacts,
    NumaNode,
    OllamaServer,
)
from orchestrator.core.model.ids import InstanceId, LeaseId, NodeName, PoolName
from orchestrator.core.model.moments import Event, Moment
from orchestrator.core.model.published import Engine, Given, Instance, InstanceState, Pool, Snapshot
from orchestrator.core.model.sizes import (
    CacheLayers,
    Demand,
    Footprint,
    ModelShape,
    Placement,
    PlacementPlan,
    UsualCall,
)

__all__ = [
    "Accelerator",
    "Answer",
    "CacheLayers",
    "Call",
    "Demand",
    "Dialect",
    "Endpoint",
    "Engine",
    "Event",
    "Finish",
    "Footprint",
    "Given",
    "GpuLink",
    "GpuProcess",
    "Instance",
    "InstanceId",
    "InstanceState",
    "LeaseId",
    "ModelOnDisk",
    "ModelShape",
    "Moment",
    "NodeFacts",
    "NodeName",
    "NumaNode",
    "OllamaServer",
    "Placement",
    "PlacementPlan",
    "Pool",
    "PoolName",
    "Snapshot",
    "ToolCall",
    "UsualCall",
]
