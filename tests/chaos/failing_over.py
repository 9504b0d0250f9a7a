"""How long a fail-over takes, looked at while it happens: from the moment of a kill to each step towards its end.

Redis' own records and Sentinels' words are looked at, not what gateways say of themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import redis

from orchestrator.app.gateway import PLACE_LETTERS
from orchestrator.app.paths import StatePaths
from orchestrator.app.settings_in_use import place
from orchestrator.store.schema import POOLS, SNAPSHOT_CHANNEL, pool_keys
from tests.chaos.redis_servers import Redis
from tests.chaos.world import World
from tests.cluster.running import TIMEOUT_S

NAMED = "Sentinels name another one"
CONNECTED = "every gateway worker is connected"
COUNTED = "slots are leased by it, on both machines"
PUBLISHED = "a controller leads and has published"
LOOK_EVERY_S = 0.02


class FailOver:
    """Steps, each with the seconds after the kill at which it was there; a thread looks until all are."""

    def __init__(self) -> None:
        self._steps: dict[str, float] = {}
        self._from_s = 0.0
        self._ended = threading.Event()
        self._looking: threading.Thread | None = None

    def steps(self) -> Mapping[str, float]:
        """What was seen; looking ends with it."""
        self._ended.set()
        if self._looking is not None:
            self._looking.join(TIMEOUT_S)
        return dict(self._steps)

    def of_redis(self, world: World, killed: Redis) -> None:
        """From now on, as the master has just been killed."""
        self._from_s = time.monotonic()
        self._begin(lambda: self._see_redis(world, killed))

    def of_controller(self, world: World, kill: Callable[[], None]) -> None:
        """From the moment at which the leading controller is killed."""
        self._from_s = time.monotonic()
        kill()
        self._begin(lambda: self._see_controller(world))

    def _begin(self, see: Callable[[], None]) -> None:
        self._looking = threading.Thread(target=see, name="fail-over")
        self._looking.start()

    def _see_redis(self, world: World, killed: Redis) -> None:
        self._until(NAMED, lambda: world.store.master() is not killed)
        master = world.store.master()
        now = master.command("TIME")  # what was leased before came by the replication
        since_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        self._until(CONNECTED, lambda: _gateways_of(master) >= len(world.sides) * world.plan.workers)
        sides = [place(StatePaths(each.state))[:PLACE_LETTERS] for each in world.sides]
        self._until(COUNTED, lambda: all(_has_leased(master, each, since_ms) for each in sides))

    def _see_controller(self, world: World) -> None:
        with redis.Redis(port=world.store.master().port, socket_timeout=TIMEOUT_S) as client, client.pubsub() as heard:
            heard.subscribe(SNAPSHOT_CHANNEL)
            self._until(PUBLISHED, lambda: (heard.get_message(timeout=LOOK_EVERY_S) or {}).get("type") == "message")

    def _until(self, step: str, is_there: Callable[[], bool]) -> None:
        while not self._ended.is_set():
            with suppress(redis.RedisError, OSError):
                if is_there():
                    self._steps[step] = round(time.monotonic() - self._from_s, 2)
                    return
            self._ended.wait(LOOK_EVERY_S)


def _gateways_of(master: Redis) -> int:
    told = str(master.command("CLIENT", "LIST", "TYPE", "pubsub"))  # they hear of grants
    return told.count("gateway-")


def _has_leased(master: Redis, place: str, since_ms: int) -> bool:
    """Whether it has leased a slot to a call there since then; those that it was told of do not count."""
    for pool in master.command("SMEMBERS", POOLS):
        for record in master.command("HVALS", pool_keys(pool)[3].decode()):
            fields = record.split("\n")
            if fields[0] == "L" and len(fields) > 4 and fields[2].startswith(place) and int(fields[3]) >= since_ms:
                return True
    return False
