"""What tests of nginx in step with a cluster share: an instance in another state, and how long they wait."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core.model import InstanceState, Pool

WITHIN_S = 60.0


def state(pool: Pool, index: int, new: InstanceState) -> Pool:
    instances = list(pool.instances)
    instances[index] = replace(instances[index], state=new)
    return replace(pool, instances=tuple(instances))
