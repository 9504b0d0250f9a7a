"""A running cluster made to run the code on disk, part by part, in an order in which no call is lost.

The supervisor first: it becomes the new code in the same process, and starts the controller anew. Then the workers, one
after the other; then Redis, if it is the cluster's own; then instances whose program is another by now, one after the
other, each drained before.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.app import settings_in_use
from orchestrator.app.operating import restart
from orchestrator.app.paths import StatePaths
from orchestrator.app.running_code import Kind, Running, check_hosts, look
from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper_client import About, KeeperClient

# Imports, on a machine that is busy, and a first word from Redis.
BACK_WITHIN_S = 60.0
_ASK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What was started anew, by name, and what could not be looked at."""

    parts: tuple[str, ...]
    unknown: tuple[Running, ...]


async def upgrade(paths: StatePaths, drain_s: float, tell: Callable[[str], None], *, is_forced: bool) -> Upgraded:
    """Have everything run what lies on disk; `is_forced`: also what does already. A second run goes on where the first
    was interrupted. Raises OrchestratorError; what was not reached by then runs on as it was."""
    settings_in_use.read(paths)  # the supervisor will have to
    await check_hosts(paths)
    parts = await look(paths)
    old = [each for each in parts if is_forced or each.is_old or each.is_down]
    client, done = KeeperClient(paths.keeper_socket), list[str]()

    if _of(old, Kind.SUPERVISOR):
        tell("the supervisor goes on as the code on disk …")
        await _renew(client)
        done += ["supervisor", "controller"]
    elif _of(old, Kind.CONTROLLER):
        tell("the controller starts anew …")
        await client.restart("controller")
        done.append("controller")
    if workers := _of(old, Kind.WORKER):
        await _roll(client, drain_s, tell)
        done += [each.name for each in workers]
    for each in _of(old, Kind.STORE):
        tell("Redis starts anew on its data; until it is back, workers serve by themselves …")
        await client.exchange_redis()
        done.append(each.name)
    for each in _of(old, Kind.INSTANCE):
        if not each.problem:
            tell(f"{each.name} finishes what it has, and starts anew …")
            await restart(paths, each.name)
            done.append(each.name)
    return Upgraded(tuple(dict.fromkeys(done)), tuple(each for each in parts if each.problem and not each.is_down))


def _of(parts: Sequence[Running], kind: Kind) -> list[Running]:
    return [each for each in parts if each.kind is kind]


async def _renew(client: KeeperClient) -> None:
    before = await _about(client)
    await client.renew(sys.executable)
    try:
        async with asyncio.timeout(BACK_WITHIN_S):
            while not await _is_back(client, before.times):  # noqa: ASYNC110 - nobody there can tell us yet
                await asyncio.sleep(_ASK_EVERY_S)
    except TimeoutError as why:
        raise HostError(
            f"the supervisor has not come back within {BACK_WITHIN_S:g} s; what it wrote last stands on its screen, "
            "or in logs/up.log"
        ) from why


async def _about(client: KeeperClient) -> About:
    try:
        return await client.about()
    except HostError as why:
        if "not a request to the keeper" not in str(why):
            raise
        raise HostError(
            "the supervisor that runs is older than this command: `ollamactl down`, then `ollamactl up`, this once"
        ) from why


async def _is_back(client: KeeperClient, times: int) -> bool:
    try:
        now = await client.about()
    except HostError:
        return False  # on its way from one program to the next it hears nobody
    return now.times > times and now.is_ready


async def _roll(client: KeeperClient, drain_s: float, tell: Callable[[str], None]) -> None:
    rolling = asyncio.create_task(client.roll(drain_s))
    try:
        while not (await asyncio.wait((rolling,), timeout=_ASK_EVERY_S))[0]:
            if step := (await client.about()).step:
                tell(step)
        await rolling
    finally:
        rolling.cancel()
