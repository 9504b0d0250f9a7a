"""Calls that only load a model which is in no memory: they wait in its line like others, and are told when it is there.

The load itself is the controller's, once however many ask for it. A call that is told of a load takes a slot for a
moment and works nobody: its instance is not asked.
"""

from __future__ import annotations

from datetime import UTC, datetime

from orchestrator.core.dialects.render import render_load
from orchestrator.core.model import Pool
from orchestrator.gateway.admission import Admission, Grant
from orchestrator.gateway.asked import Asked, wanted_of
from orchestrator.gateway.doubting import Watch
from orchestrator.gateway.replies import Reply, whole


class Loading:
    """What answers them, in the place of an instance."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def serve_from(self, asked: Asked, pool: Pool, _: Watch | None = None) -> Reply:
        """Wait until the model can be asked. Raises CapacityError where it is not there in time."""
        admitted = await self._admission.admit(pool, wanted_of(asked, pool))
        assert isinstance(admitted, Grant), "no answer was asked for"
        self._admission.unused(admitted)
        trace, call = asked.trace, asked.call
        trace.queue_s += admitted.waited_s
        trace.queued_behind, trace.instance = admitted.queued_behind, admitted.instance.id
        return whole(*render_load(call, call.model, datetime.now(UTC)), trace.fields())
