"""The cluster's own Redis as a unit of the keeper, and how a running one is followed by the program on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper_client import KeeperClient
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


async def start_anew(client: KeeperClient, root: Path, runs: str) -> None:
    """Have the program on disk go on with the data of the one that `runs`.

    Raises HostError; where the new one does not start on that data, the other one has gone on with it.
    """
    before = await _pid(client)
    program = _kept(root, runs, before)
    try:
        await client.start(redis_unit(root, within_s=_BACK_WITHIN_S))
        if await _pid(client) == before:  # it was started by the same words already
            await client.restart(NAME)
    except HostError as why:
        await client.start(redis_unit(root, program))
        raise HostError(f"Redis goes on as {runs}, the one on disk did not start: {why}") from why


def _kept(root: Path, runs: str, pid: int | None) -> Path:
    """The program that runs; where another was installed in its place, a copy of it beside its data."""
    if pid is None or not runs.endswith(" (deleted)"):
        return Path(runs)
    kept = root / "redis" / "server-before"
    try:
        write_whole(kept, Path(f"/proc/{pid}/exe").read_bytes(), mode=0o700)
    except OSError as why:
        raise HostError(f"{kept}: Redis' program of before cannot be kept ({why.strerror})") from why
    return kept


async def _pid(client: KeeperClient) -> int | None:
    return next((each.pid for each in await client.list() if each.name == NAME), None)
