"""A call's place in its pool's line, as its gateway knows it: what was asked, where it stands, what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.core.errors import StoreError
from orchestrator.store.admission import AdmitRequest, Leased, Queued


@dataclass(slots=True)
class Ticket:
    """`result`: the slot; None: it was withdrawn; an error: it is not waited for here any more, and why.

    `is_doubted`: Redis was away, or lost something. What it granted before it knew again of every slot in use is
    looked at before it is used.
    """

    request: AdmitRequest
    since: float  # loop time
    result: asyncio.Future[Leased | StoreError | None] = field(repr=False)
    place: Queued
    on_queued: Callable[[Queued], None] | None = None
    is_doubted: bool = False

    def stands(self, place: Queued) -> None:
        """Say where it stands now, unless it was granted or withdrawn meanwhile."""
        self.place = place
        if self.on_queued is not None and not self.result.done():
            self.on_queued(place)

    def outcome(self) -> Leased | None:
        """What came of it. Raises StoreError."""
        told = self.result.result()
        if isinstance(told, StoreError):
            raise told
        return told
