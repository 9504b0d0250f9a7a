"""Who keeps the processes of one node: the keeper on this machine, systemd on a host that is reached over SSH."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from orchestrator.nodes.keeper_units import Unit, UnitEvent, UnitStatus


class Keeping(Protocol):
    """Every method raises HostError, in one line that names the node."""

    async def start(self, unit: Unit) -> None:
        """Have `unit` run, also after the host was restarted; as it is now, where one of its name ran otherwise."""

    async def stop(self, name: str) -> None:
        """Have no unit of this name; all its processes have ended when this returns."""

    async def restart(self, name: str) -> None:
        """Have its processes end and start."""

    async def list(self) -> tuple[UnitStatus, ...]:
        """The units of this place, ours alone."""

    def events(self) -> AsyncIterator[UnitEvent]:
        """What happens to units from now on."""

    async def marks(self) -> Mapping[str, str]:
        """What running units say they are (`OLLAMACTL_INSTANCE` in their environment), by unit."""

    async def listens(self, name: str, port: int) -> bool:
        """Whether it is a process of this unit that listens on the port."""
