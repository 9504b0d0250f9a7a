"""The cluster's own Redis as a unit of the keeper, and how a running one is followed by the program on disk.

Whoever keeps it exchanges it, from the first step to the last: a command that asked for it may be killed meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from orchestrator.core.errors import HostError, StoreError
from orchestrator.nodes.keeper import Keeper
from orchestrator.nodes.keeper_units import EventKind, Unit, UnitEvent, UnitState
from orchestrator.store import embedded
from orchestrator.store.connection import Connection
from orchestrator.whole_file import write_whole

log = logging.getLogger(__name__)

NAME: Final = "redis"
# It answers once it has read its data: some seconds a GiB.
_BACK_WITHIN_S: Final = 300.0


def redis_unit(root: Path, program: Path | None = None, *, within_s: float | None = None) -> Unit:
    """Over the data of a state folder, by `program` or else the one on disk. Raises HostError where there is none."""
    argv, ready = tuple(embedded.server_command(root, program)), f"unix:{embedded.server_socket(root)}"
    unit = Unit(name=NAME, argv=argv, env=embedded.server_environment(), ready=ready)
    return unit if within_s is None else replace(unit, ready_timeout_s=within_s)


def keep_on(keeper: Keeper, root: Path) -> str:
    """Have one kept where none is, as after an exchange that left none. Why that cannot be; empty: one is kept."""
    if keeper.unit(NAME) is not None:
        return ""
    try:
        keeper.keep(redis_unit(root))
    except HostError as why:
        return str(why)
    return ""


async def start_anew(keeper: Keeper, root: Path) -> None:
    """Have the program on disk go on with the data of the one that runs; it has read them when this returns.

    Raises HostError; where the new one does not start on that data, the other one has gone on with it; where that does
    not either, it is started again and again. Where none is kept, one is started.
    """
    unit = redis_unit(root, within_s=_BACK_WITHIN_S)
    runs = keeper.unit(NAME) or unit
    pid = next((each.pid for each in keeper.status() if each.name == NAME), None)
    before = runs if pid is None else await asyncio.to_thread(_before, root, runs, pid)
    try:
        if keeper.unit(NAME) == unit:
            await keeper.restart(NAME)
        else:
            await keeper.start(unit)
        await _until_it_answers(keeper, root)
    except HostError as why:
        await _go_back(keeper, root, before, why)
    _remove_kept(root)


async def _go_back(keeper: Keeper, root: Path, before: Unit, why: HostError) -> None:
    """Raises HostError."""
    called = before.argv[0]
    try:
        await keeper.start(before)
        await _until_it_answers(keeper, root)
    except HostError as also:
        keeper.keep(before)
        raise HostError(
            f"Redis {'is started again and again' if _is_tried(keeper, before) else 'is not started again'}: the "
            f"program on disk did not start ({why}), and {called} does not go on with its data now ({also})"
        ) from also
    raise HostError(f"Redis goes on as {called}, the one on disk did not start: {why}") from why


def _is_tried(keeper: Keeper, unit: Unit) -> bool:
    """Not where the supervisor ends, or a process that cannot be ended is still there."""
    over = (UnitState.STOPPING, UnitState.EXITED)
    states = [each.state for each in keeper.status() if each.name == NAME]
    return keeper.unit(NAME) == unit and any(each not in over for each in states)


async def _until_it_answers(keeper: Keeper, root: Path) -> None:
    """It listens before it reads its data. Raises HostError where it ends meanwhile, or the time is up.

    To be called right behind its start: nothing may happen to it in between.
    """
    ended: asyncio.Future[UnitEvent] = asyncio.get_running_loop().create_future()

    def hear(event: UnitEvent) -> None:
        if event.unit == NAME and event.kind in (EventKind.EXITED, EventKind.STOPPED) and not ended.done():
            ended.set_result(event)

    forget = keeper.subscribe(hear)
    connection = Connection(embedded.server_url(root), name="exchange")
    answers = asyncio.ensure_future(connection.open(_BACK_WITHIN_S))
    try:
        if all(each.pid is None for each in keeper.status() if each.name == NAME):
            raise HostError("Redis ended as soon as it listened")
        await asyncio.wait((answers, ended), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            how = ended.result()
            raise HostError("\n".join((f"Redis ended before it had read its data, with {how.exit}", *how.lines)))
        await answers
    except StoreError as why:
        raise HostError(f"Redis did not answer within {_BACK_WITHIN_S:g} s: {why}") from why
    finally:
        forget()
        answers.cancel()
        await asyncio.gather(answers, return_exceptions=True)
        await connection.close()


def _before(root: Path, runs: Unit, pid: int) -> Unit:
    """What starts the program that runs once more: its own command, where that still finds it, or else a copy of it
    beside its data. Raises HostError.

    The kernel's name of the program does not: where a server and its tools are one file, it acts by the name it has.
    """
    kept, exe = _kept(root), Path(f"/proc/{pid}/exe")
    try:
        if str(exe.readlink()) == os.path.realpath(runs.argv[0]):
            return runs
    except OSError:
        return runs  # it has ended just now
    try:
        write_whole(kept, exe.read_bytes(), mode=0o700)
    except OSError as why:
        raise HostError(f"{kept}: Redis' program of before cannot be kept ({why.strerror})") from why
    return redis_unit(root, kept)


def _kept(root: Path) -> Path:
    return root / "redis" / "server-before"


def _remove_kept(root: Path) -> None:
    """Nothing goes back to it any more."""
    try:
        _kept(root).unlink(missing_ok=True)
    except OSError:
        log.warning("%s is needed no more, and cannot be removed", _kept(root))
