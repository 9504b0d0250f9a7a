"""Faults of Redis: it ends, comes back with nothing, loses what it had acknowledged, falls silent, is full or slow."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import suppress

import redis

from tests.chaos.failing_over import FailOver
from tests.chaos.faults import Allowed, ByItself, Fault
from tests.chaos.parts import Stutter
from tests.chaos.redis_servers import Redis
from tests.chaos.world import World
from tests.cluster.running import until

UNCOUNTED = Allowed(uncounted=True)
# How long a Redis holds writes back, and how it is slow: it works for one of ten parts of each turn.
HELD_MS = 4000
STOPPED_S, WORKING_S = 0.18, 0.02


class OfMaster(ByItself):
    """The master goes, and where there are Sentinels, another one is made."""

    def __init__(self) -> None:
        self._fail_over = FailOver()

    def steps(self) -> Mapping[str, float]:
        return self._fail_over.steps()

    def gone(self, world: World, master: Redis) -> None:
        """It has just gone: wait for another one."""
        self._fail_over.of_redis(world, master)
        world.until(lambda: world.store.master() is not master, "another one is the master")


class RedisKilled(OfMaster):
    name = "Redis killed, its replica takes over"
    promise = "Nothing: meanwhile gateways use their shares of the slots, without cache and common queue."
    allows = UNCOUNTED
    heals_itself = False
    _killed: Redis

    def inject(self, world: World, rng: random.Random) -> None:
        self._killed = world.store.master()
        self._killed.kill()
        if world.store.sentinels:
            self.gone(world, self._killed)

    def heal(self, world: World) -> None:
        self._killed.start()


class RedisRestartedEmpty(ByItself):
    name = "Redis restarted empty"
    promise = "Nothing: gateways tell it again which slots are in use, before it gives any."
    allows = UNCOUNTED

    def inject(self, world: World, rng: random.Random) -> None:
        master = world.store.master()
        master.kill()
        master.lose_data()
        master.start()


class AcknowledgedWritesLost(RedisKilled):
    name = "Redis failed over to a replica that lacks its last writes"
    promise = "Nothing: leases that are lost are counted again, tickets are filed where they stood."

    def inject(self, world: World, rng: random.Random) -> None:
        self._killed, replica = world.store.master(), world.store.replica()
        replica.pause()
        world.at_end(replica.go_on)
        before = _written(self._killed)
        world.until(lambda: _written(self._killed) > before + 5000, "writes that the replica does not get")
        self._killed.kill()
        replica.go_on()
        self.gone(world, self._killed)


class RedisFailedOver(OfMaster):
    name = "Redis failed over by its Sentinels"
    promise = "Nothing: gateways are alone for as long as it takes."
    allows = UNCOUNTED

    def inject(self, world: World, rng: random.Random) -> None:
        before = world.store.master()
        world.store.fail_over()
        self.gone(world, before)


class RedisPaused(OfMaster):
    name = "Redis paused until its replica has taken over, and continued"
    promise = "Calls that just asked it wait some seconds; the others notice nothing."
    allows = UNCOUNTED

    def inject(self, world: World, rng: random.Random) -> None:
        paused = world.store.master()
        paused.pause()
        world.at_end(paused.go_on)
        if world.store.sentinels:
            self.gone(world, paused)
        else:
            world.until(lambda: _says_down(world), "the status says that Redis does not answer")
        paused.go_on()


class RedisHoldsWrites(ByItself):
    name = "Redis holds writes back for 4 s (CLIENT PAUSE)"
    promise = "Calls that just asked it wait some seconds; the others notice nothing."
    allows = UNCOUNTED

    def inject(self, world: World, rng: random.Random) -> None:
        master = world.store.master()
        master.command("CLIENT", "PAUSE", HELD_MS, "WRITE")
        master.command("SET", "chaos", "written")  # answered when they are no longer held back


class RedisFull(ByItself):
    name = "Redis full (OOM)"
    promise = "Nothing: as if it were away, and the status says why."
    allows = UNCOUNTED
    heals_itself = False

    def inject(self, world: World, rng: random.Random) -> None:
        for each in world.store.servers:
            each.command("CONFIG", "SET", "maxmemory", "1")
        world.at_end(lambda: self.heal(world))
        world.until(lambda: "takes no writes" in _store_of(world), "the status says that Redis takes no writes")

    def heal(self, world: World) -> None:
        for each in world.store.servers:
            with suppress(redis.RedisError, OSError):  # it has ended, with its settings
                each.command("CONFIG", "SET", "maxmemory", "0")


class RedisSlow(ByItself):
    name = "Redis slow: 200 ms for whatever is asked"
    promise = "Each call takes as much longer as it asks Redis, and is served."
    heals_itself = False

    def inject(self, world: World, rng: random.Random) -> None:
        self._stutter = Stutter(world.store.master(), STOPPED_S, WORKING_S)
        world.at_end(self._stutter.end)

    def heal(self, world: World) -> None:
        self._stutter.end()


class ReplicaKilled(ByItself):
    name = "Redis' replica killed"
    promise = "Nothing."
    heals_itself = False
    _killed: Redis

    def inject(self, world: World, rng: random.Random) -> None:
        self._killed = world.store.replica()
        self._killed.kill()

    def heal(self, world: World) -> None:
        self._killed.start()


class SentinelsKilled(ByItself):
    name = "All Sentinels killed"
    promise = "Nothing: whoever has found Redis needs them no more."
    heals_itself = False

    def inject(self, world: World, rng: random.Random) -> None:
        for each in world.store.sentinels:
            each.kill()

    def heal(self, world: World) -> None:
        for each in world.store.sentinels:
            each.start()
        until(world.store.is_whole, "the Sentinels know each other again")


def _written(server: Redis) -> int:
    return int(server.info("replication")["master_repl_offset"])


def _store_of(world: World) -> str:
    return str(world.status().get("store", ""))


def _says_down(world: World) -> bool:
    return _store_of(world).startswith("DOWN")


REDIS_FAULTS: tuple[type[Fault], ...] = (
    RedisKilled,
    RedisRestartedEmpty,
    AcknowledgedWritesLost,
    RedisFailedOver,
    RedisPaused,
    RedisHoldsWrites,
    RedisFull,
    RedisSlow,
    ReplicaKilled,
    SentinelsKilled,
)
