"""The models on a simulated instance's disk: those its configuration names, pulled or not.

What is said of them is `listing`'s; models that lie in a real folder are `folder`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, Protocol

from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.nodes.simulator.config import SimulatedModel, SimulatorConfig

PULL_TICK_S: Final = 0.06
MISSING_MANIFEST: Final = "pull model manifest: file does not exist"


class Shelf(Protocol):
    """Where an instance has its models."""

    def find(self, name: str) -> SimulatedModel | None:
        """The model of this name, if it is pulled."""

    def present(self) -> Iterator[SimulatedModel]:
        """Every model that is pulled."""

    def pull(self, name: str) -> AsyncIterator[dict[str, Any]]:
        """Fetch a model: what /api/pull says meanwhile, line by line; an error is a line too."""


class ConfiguredShelf:
    """Models that only the configuration knows: nothing of them is written anywhere."""

    def __init__(self, config: SimulatorConfig) -> None:
        self._config = config
        self._models = {canonical_model_name(each.name): each for each in config.models}
        self._pulled = {name for name, each in self._models.items() if each.is_pulled}

    def find(self, name: str) -> SimulatedModel | None:
        key = canonical_model_name(name)
        return self._models.get(key) if key in self._pulled else None

    def present(self) -> Iterator[SimulatedModel]:
        return (each for name, each in self._models.items() if name in self._pulled)

    async def pull(self, name: str) -> AsyncIterator[dict[str, Any]]:
        yield {"status": "pulling manifest"}
        model = self._models.get(canonical_model_name(name))
        if model is None:
            yield {"error": MISSING_MANIFEST}
            return
        layer = layer_line(model.digest or "0" * 64, model.file_bytes)
        if canonical_model_name(model.name) not in self._pulled:
            tick = int(self._config.pull_bandwidth_bytes_s * PULL_TICK_S * self._config.speed)
            for done in range(0, model.file_bytes, max(1, tick)):
                yield layer | ({"completed": done} if done else {})
                await asyncio.sleep(PULL_TICK_S)
        yield layer | {"completed": model.file_bytes}
        yield {"status": "verifying sha256 digest"}
        yield {"status": "writing manifest"}
        self._pulled.add(canonical_model_name(model.name))
        yield {"status": "success"}


def layer_line(digest: str, total: int) -> dict[str, Any]:
    """How a layer's progress begins. `digest`: hexadecimal digits."""
    return {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": total}
