"""What each process of a running cluster was started as, beside what it would be if it were started now.

Processes of ours carry the build they were started from; of an engine, the file that it runs is compared with the file
that lies in its place now. What is done about a difference is left to others.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from orchestrator.app import builds, settings_in_use
from orchestrator.app.own_redis import NAME as STORE_UNIT
from orchestrator.app.paths import StatePaths
from orchestrator.app.running import holder_of
from orchestrator.app.visits import BRINGS_NONE, Visits, visits
from orchestrator.app.workers import PREFIX
from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeName
from orchestrator.fleet.made import UNIT_PREFIX
from orchestrator.nodes.keeper_client import KeeperClient
from orchestrator.nodes.keeper_units import UnitStatus
from orchestrator.nodes.onhost.policy import RUNS
from orchestrator.nodes.sending import RefusedError, as_root, check_version
from orchestrator.nodes.ssh import Rights, SshHost
from orchestrator.nodes.systemd_text import instance_of
from orchestrator.store.embedded import find_server

# What the kernel says of a program whose file is gone, or was replaced, since the process began (proc(5)).
_DELETED = " (deleted)"
_STEP = "program"


class Kind(StrEnum):
    SUPERVISOR = "supervisor"
    WORKER = "worker"
    CONTROLLER = "controller"
    INSTANCE = "instance"
    STORE = "store"  # Redis, where it is the cluster's own


@dataclass(frozen=True, slots=True)
class Running:
    """One process. `on_disk` is what it would run now; `problem`: why that is not known."""

    kind: Kind
    name: str
    node: str
    runs: str
    on_disk: str
    problem: str = ""

    @property
    def is_old(self) -> bool:
        return not self.problem and self.runs != self.on_disk

    @property
    def is_down(self) -> bool:
        """The cluster's own Redis, which ought to run and does not."""
        return self.kind is Kind.STORE and not self.runs


async def look(paths: StatePaths) -> tuple[Running, ...]:
    """Every process of the cluster that runs with this state folder. Raises HostError where none does."""
    holder, disk = holder_of(paths), await asyncio.to_thread(builds.on_disk)
    units = await KeeperClient(paths.keeper_socket).list()
    found = [Running(Kind.SUPERVISOR, "supervisor", "", holder.build, disk)]
    has_store = settings_in_use.read(paths).redis == "embedded"
    found += await asyncio.to_thread(of_units, units, disk, has_store=has_store)
    return (*found, *await _on_hosts(paths))


def of_units(units: Sequence[UnitStatus], disk: str, *, has_store: bool) -> list[Running]:
    """What the units of this machine run; `has_store`: one of them ought to be Redis."""
    found = [of_unit(each, disk) for each in units if each.pid is not None]
    here = [each for each in found if each is not None]
    if has_store and not any(each.kind is Kind.STORE for each in here):
        here.append(Running(Kind.STORE, STORE_UNIT, "", "", "", "Redis does not run; logs/redis.log may say why"))
    return here


def of_unit(unit: UnitStatus, disk: str) -> Running | None:
    """What a unit of this machine runs, where the program on disk is the build `disk`; None: it has just ended."""
    assert unit.pid is not None
    kind, name = _kind_of(unit.name), unit.name.removeprefix(UNIT_PREFIX)
    if kind is None:
        return None
    try:
        program, words = Path(f"/proc/{unit.pid}/exe").readlink(), psutil.Process(unit.pid).cmdline()
    except (OSError, psutil.Error):
        return None  # it has ended just now
    if not words:
        return None  # it is about to begin, or has ended: it has no words then
    if "orchestrator." in " ".join(words[1:4]):  # `python -P -m orchestrator.…`
        return Running(kind, name, "", builds.of_process(unit.pid), disk)
    if kind is Kind.STORE:
        return _store(name, str(program))
    runs, called = str(program), words[0].split()[0]  # a server may have put a title behind its command
    return Running(kind, name, "", runs, runs if not _is_replaced(runs, called) else os.path.realpath(called))


def _kind_of(unit: str) -> Kind | None:
    if unit.startswith(PREFIX):
        return Kind.WORKER
    if unit.startswith(UNIT_PREFIX):
        return Kind.INSTANCE
    return {"controller": Kind.CONTROLLER, STORE_UNIT: Kind.STORE}.get(unit)


def _store(name: str, runs: str) -> Running:
    """It may be another program on disk, in another place: that of other packages."""
    try:
        return Running(Kind.STORE, name, "", runs, os.path.realpath(find_server()))
    except HostError as why:
        return Running(Kind.STORE, name, "", runs, "", str(why))


def _is_replaced(runs: str, called: str) -> bool:
    """Whether the command finds another file by now. A name without a path is looked for by who starts it."""
    return runs.endswith(_DELETED) or (called.startswith("/") and os.path.realpath(called) != runs)


# --- hosts ------------------------------------------------------------------------------------------------------------


async def check_hosts(paths: StatePaths) -> None:
    """Raises HostError where hosts are restricted to a program of another version than this code: it could do nothing
    there. Those that cannot be asked now are left out."""
    settings = settings_in_use.read(paths)
    if not settings.hosts:
        return
    ways = await visits(settings, paths, of=BRINGS_NONE)
    said = await asyncio.gather(*(_refused(ways, NodeName(each.name)) for each in settings.hosts))
    if lines := [each for each in said if each]:
        raise HostError("\n".join(lines))


async def _refused(ways: Visits, node: NodeName) -> str:
    try:
        async with ways.connected(node) as host:
            await check_version(host)
    except RefusedError as why:
        return str(why)
    except HostError:
        return ""
    return ""


async def _on_hosts(paths: StatePaths) -> list[Running]:
    settings = settings_in_use.read(paths)
    if not settings.hosts:
        return []
    ways = await visits(settings, paths, of=BRINGS_NONE)
    looks = await asyncio.gather(*(_on_host(ways, NodeName(each.name)) for each in settings.hosts))
    return [each for one in looks for each in one]


async def _on_host(ways: Visits, node: NodeName) -> list[Running]:
    try:
        async with ways.keeper(node) as keeper, ways.connected(node) as host:
            units = [each for each in await keeper.list() if each.pid is not None]
            return [await instance_on(host, each) for each in units]
    except HostError as why:
        return [Running(Kind.INSTANCE, "", node, "", "", str(why))]


async def instance_on(host: SshHost, unit: UnitStatus) -> Running:
    """What an instance of a host runs. Raises SshError."""
    name = unit.name.removeprefix(UNIT_PREFIX)
    readlink, given = await as_root(host, ["readlink", f"/proc/{unit.pid}/exe"], RUNS, instance=instance_of(unit.name))
    program = await host.run(readlink, step=_STEP, given=given)
    words = await host.run(["cat", f"/proc/{unit.pid}/cmdline"], step=_STEP)
    runs, called = program.out.decode().strip(), words.out.partition(b"\0")[0].decode()
    # What instances are started by is open to all; on a restricted host root reads no other links.
    is_restricted = await host.rights() is Rights.RESTRICTED
    now = await host.run(["readlink", "-f", called], step=_STEP, sudo=not is_restricted)
    return Running(Kind.INSTANCE, name, host.node, runs, now.out.decode().strip())
