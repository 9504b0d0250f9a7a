"""Acts on instances that only the controller which leads may do: asked of it right before each.

Looking is free. A controller that was paused in the middle of something goes on where it was; what it would do next is
refused here, since another one acts by then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from orchestrator.core.model import Instance
from orchestrator.nodes.engine_api import EngineApi
from orchestrator.nodes.given_api import GivenApi
from orchestrator.nodes.tls import Contexts


class Leading(Protocol):
    """Whoever knows who leads."""

    @property
    def term(self) -> int:
        """A number higher than that of every controller that led before; 0: no other can lead."""

    def check(self) -> None:
        """Raises StoreError unless this controller leads for sure."""


class FencedApi(EngineApi):
    """Instances of our own. What a load does there is what any controller would have done."""

    def __init__(self, check: Callable[[], None], contexts: Contexts | None = None) -> None:
        super().__init__(contexts)
        self._check = check

    async def unload(self, instance: Instance) -> None:
        self._check()
        await super().unload(instance)


class FencedGivenApi(GivenApi):
    """Servers that somebody else runs: a load there may have another model go."""

    def __init__(self, check: Callable[[], None], contexts: Contexts | None = None) -> None:
        super().__init__(contexts)
        self._check = check

    async def load_as_it_is(self, at: Instance, *, is_embedding: bool) -> None:
        self._check()
        await super().load_as_it_is(at, is_embedding=is_embedding)

    async def unload(self, instance: Instance) -> None:
        self._check()
        await super().unload(instance)
