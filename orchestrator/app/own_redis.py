"""The cluster's own Redis as a unit of the keeper, and how a running one is followed by the program on disk.

Whoever keeps it exchanges it, from the first step to the last: a command that asked for it may be killed meanwhile.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper import Keeper
from orchestrator.nodes.keeper_units import Unit
from orchestrator.store import embedded
from orchestrator.whole_file import write_whole

NAME: Final = "redis"
# It answers once it has read its data: some seconds a GiB.
_BACK_WITHIN_S: Final = 300.0


def redis_unit(root: Path, program: Path | None = None, *, within_s: float | None = None) -> Unit:
    """Over the data of a state folder, by `program` or else the one on disk. Raises HostError where there is none."""
    argv, ready = tuple(embedded.server_command(root, program)), f"unix:{embedded.server_socket(root)}"
    if within_s is None:
        return Unit(name=NAME, argv=argv, ready=ready)
    return Unit(name=NAME, argv=argv, ready=ready, ready_timeout_s=within_s)


async def start_anew(keeper: Keeper, root: Path) -> None:
    """Have the program on disk go on with the data of the one that runs.

    Raises HostError; where the new one does not start on that data, the other one has gone on with it; where that does
    not either, it is started again and again.
    """
    runs = keeper.unit(NAME)
    if runs is None:
        raise HostError("this cluster has no Redis of its own that runs")
    unit = redis_unit(root, within_s=_BACK_WITHIN_S)
    pid = next((each.pid for each in keeper.status() if each.name == NAME), None)
    called, program = await asyncio.to_thread(_kept, root, pid) if pid is not None else (runs.argv[0], None)
    before = runs if program is None else redis_unit(root, program)
    try:
        await (keeper.restart(NAME) if runs == unit else keeper.start(unit))
    except HostError as why:
        await _go_back(keeper, before, called, why)


async def _go_back(keeper: Keeper, before: Unit, called: str, why: HostError) -> None:
    """Raises HostError."""
    try:
        await keeper.start(before)
    except HostError as also:
        keeper.keep(before)
        raise HostError(
            f"Redis is started again and again: the program on disk did not start ({why}), and {called} does not go on "
            f"with its data now ({also})"
        ) from also
    raise HostError(f"Redis goes on as {called}, the one on disk did not start: {why}") from why


def _kept(root: Path, pid: int) -> tuple[str, Path]:
    """The program that runs, as the kernel calls it, and where it lies; where another was installed in its place, a
    copy of it beside its data. Raises HostError."""
    kept = root / "redis" / "server-before"
    try:
        runs = str(Path(f"/proc/{pid}/exe").readlink())
        if not runs.endswith(" (deleted)"):
            return runs, Path(runs)
        write_whole(kept, Path(f"/proc/{pid}/exe").read_bytes(), mode=0o700)
    except OSError as why:
        raise HostError(f"{kept}: Redis' program of before cannot be kept ({why.strerror})") from why
    return runs, kept
