"""Which changes of instances are worth an event, and their sentences.

It knows states alone: an instance that goes from down to starting and down again, for the same reason, is told of once.
"""

from __future__ import annotations

from orchestrator.core.model import Instance, InstanceId, InstanceState, Moment


class Moments:
    """What was told of each instance."""

    def __init__(self) -> None:
        self._states: dict[InstanceId, InstanceState] = {}
        self._down: dict[InstanceId, str] = {}  # why, of those that have not served since

    def saw(self, now: Instance, *, is_adopted: bool = False) -> tuple[Moment, str] | None:
        """What happened to it since it was seen last; None: nothing to speak of. Adopted ones were told of before."""
        before = self._states.get(now.id)
        if before is now.state and now.state is not InstanceState.DOWN:
            return None
        self._states[now.id] = now.state
        if before is None and is_adopted:
            return None
        match now.state:
            case InstanceState.STARTING:
                return self._starting(before, now)
            case InstanceState.SERVING:
                self._down.pop(now.id, None)
                return Moment.SERVING, f"{now.id} serves {now.upstream_model} with {now.slots} slots"
            case InstanceState.DOWN if self._down.get(now.id) != now.reason:
                self._down[now.id] = now.reason
                return Moment.DOWN, f"{now.id} is down: {now.reason}"
            case InstanceState.DRAINING:
                return Moment.DRAINED, f"{now.id} gets no new calls: {now.reason}"
        return None

    def gone(self, instance: InstanceId) -> tuple[Moment, str]:
        """It was stopped."""
        self._states.pop(instance, None)
        self._down.pop(instance, None)
        return Moment.STOPPED, f"{instance} has ended"

    def _starting(self, before: InstanceState | None, now: Instance) -> tuple[Moment, str] | None:
        if before is None:
            where = ", ".join(now.accelerators) or "the CPU"
            return Moment.STARTED, f"{now.id} is started on {now.node}, {where}"
        if before is InstanceState.DOWN:
            return None  # tried again
        return Moment.RESTARTED, f"{now.id} is brought back: {now.reason}"
