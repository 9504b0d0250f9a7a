"""What an admin can have done from the page: instances drained and started anew, kept answers forgotten.

Each is asked as the commands ask it, by a wish that the controller heeds, and is in the audit log before it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from orchestrator.app import audit, wishes
from orchestrator.app.paths import StatePaths
from orchestrator.app.running import controller_here
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Snapshot
from orchestrator.gateway.identity import Caller
from orchestrator.store.answers import Answers
from orchestrator.store.connection import Connection
from orchestrator.store.questions import Questions

_DONE: Final = {
    "drain": "finishes what it has and gets no new calls",
    "undrain": "has calls again",
    "restart": "finishes what it has and starts anew",
}
ACTS: Final = (*_DONE, "purge")


class Acts:
    """Of one gateway's state folder."""

    def __init__(self, paths: StatePaths, connection: Connection, snapshot: Callable[[], Snapshot]) -> None:
        self._paths, self._connection, self._snapshot = paths, connection, snapshot

    async def act(self, caller: Caller, act: str, what: str) -> str:
        """What was done, for people. Raises CallerError for what there is not, HostError where it cannot be done."""
        if act not in ACTS:
            raise CallerError(400, f"there is no act {act!r}; there are {', '.join(ACTS)}")
        if act == "purge":
            return await self._purge(caller)
        if what not in self._names(is_restart=act == "restart"):
            raise CallerError(404, f"there is no instance {what!r}")
        tell = await controller_here(self._paths)
        audit.record(self._paths.audit, caller.name, "page", act, what)
        if act == "drain":
            wishes.drain(self._paths, what)
        elif act == "undrain":
            wishes.undrain(self._paths, what)
        else:
            wishes.restart(self._paths, what)
        tell()
        return f"{what} {_DONE[act]}"

    async def _purge(self, caller: Caller) -> str:
        audit.record(self._paths.audit, caller.name, "page", "purge", "all answers")
        purged = await Answers(self._connection).purge_all()
        await Questions(self._connection).forget_lost()
        return f"{purged} answers are forgotten"

    def _names(self, *, is_restart: bool) -> set[str]:
        instances = [each for pool in self._snapshot().pools for each in pool.instances if not each.is_given]
        nodes = set() if is_restart else {str(each.node) for each in instances}
        return {str(each.id) for each in instances} | nodes
