"""A cluster of real processes to be hurt: two gateways, Redis with Sentinels, played instances; and whose each one is.

The two machines of a pair are two state folders, each with its own supervisor, controller and workers, on one Redis
that is reached through Sentinels. Instances run beside them, as servers that somebody else runs (`instances:`).
`parts` and `redis_servers` say what can be done to each.
"""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import redis
import yaml

from orchestrator.nodes.simulator.config import SimulatedModel
from orchestrator.store import usage
from orchestrator.store.connection import Connection
from orchestrator.store.pools import PoolLoad, in_flight
from orchestrator.store.schema import LEADER
from tests.chaos.parts import Instance, Launch, Side
from tests.chaos.redis_servers import Store, redis_of
from tests.cluster.running import TIMEOUT_S
from tests.fleet.given_world import model

T = TypeVar("T")
SMALL, FULL, ROUTE = "small:1b", "full:8b", "auto"
OWN_MODELS = ("llama3.2:3b-instruct-q4_K_M", "llama3.1:8b-instruct-q4_K_M")
SLOTS = 2
# A model that its owner unloaded is loaded again once calls wait for it.
WELL = frozenset({"serving", "cold"})
LEASE_TTL_S = 3.0
LOOK_EVERY_S = 0.1


def as_it_is(name: str, argv: list[str]) -> list[str]:
    return argv


@dataclass(frozen=True, slots=True)
class Plan:
    """What a world is made of.

    `launch(name, argv)` may put something before a process: `unshare …`, `prlimit …`, `env LD_PRELOAD=…`; it must end
    in an exec, so that the pid stays. Names are side-a, side-b, redis-0, redis-1, sentinel-0…2, instance-0…5.
    `redis_seen_by(side, url)` may give a side another URL than the Sentinels' own, as that of a proxy;
    `url_seen_by(instance, url)` the gateways another one of an instance. `folder_of(name, folder)` may put the folder
    of a side or a server elsewhere. `speed`: simulated seconds in one; at 1.0 a token takes 7 ms.
    """

    sides: int = 2
    workers: int = 2
    instances: int = 6
    sentinels: int = 3  # 0: one Redis without a replica, reached at redis://
    speed: float = 0.25
    launch: Launch = as_it_is
    redis_seen_by: Callable[[str, str], str] = lambda side, url: url
    url_seen_by: Callable[[str, str], str] = lambda name, url: url
    folder_of: Callable[[str, Path], Path] = lambda name, folder: folder
    redis_options: tuple[str, ...] = ()  # of the servers: "--maxmemory", "64mb"
    cards: str = ""  # played ones, on which each side deploys instances of its own; there are no others then
    settings: Mapping[str, Any] = field(default_factory=dict)  # of cluster.yaml, over the world's own
    around: Callable[[Path], AbstractContextManager[object]] = nullcontext  # entered before anything is started

    @property
    def models(self) -> tuple[str, str]:
        """The small one and the full one; what is deployed must be a model that is known."""
        return OWN_MODELS if self.cards else (SMALL, FULL)


class World:
    """All of it. `at_end(callback)`: whatever a fault must undo, even where the trial fails."""

    def __init__(self, folder: Path, plan: Plan, store: Store, instances: list[Instance], stack: ExitStack) -> None:
        self.folder, self.plan, self.store, self.instances = folder, plan, store, instances
        self.sides: list[Side] = []
        self._stack = stack
        self._never = threading.Event()

    def at_end(self, callback: Callable[[], object]) -> None:
        self._stack.callback(callback)

    def side(self, name: str) -> Side:
        return next(each for each in self.sides if each.name == name)

    def instance(self, name: str) -> Instance:
        return next(each for each in self.instances if each.name == name)

    def until(self, condition: Callable[[], T], what: str, timeout_s: float = TIMEOUT_S) -> T:
        """Wait for a condition, not for a while. To look at it must cost little of what the cluster needs."""
        deadline_s = time.monotonic() + timeout_s
        while not (found := condition()):
            assert time.monotonic() < deadline_s, f"never: {what}"
            self._never.wait(LOOK_EVERY_S)
        return found

    # --- looking ------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """/status.json of the first side that answers; {} while none does."""
        for each in self.sides:
            with suppress(OSError, http.client.HTTPException):
                return each.status()
        return {}

    def loads(self) -> tuple[PoolLoad, ...]:
        """Every pool as Redis has it, counted anew from its records."""
        return asyncio.run(self._loads())

    async def _loads(self) -> tuple[PoolLoad, ...]:
        async with self._connected() as connection:
            return await in_flight(connection)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        connection = Connection(f"redis://{self.store.master().address}", name="chaos")
        try:
            await connection.open(20)
            yield connection
        finally:
            await connection.close()

    def leader(self) -> Side:
        """The side whose controller leads now."""
        return self.until(self._leader, "a controller leads")

    def _leader(self) -> Side | None:
        with suppress(redis.RedisError, OSError):
            told = str(self.store.master().command("GET", LEADER) or "")
            return next((each for each in self.sides if each.leads_as(told.partition(" ")[2])), None)
        return None

    def is_whole(self) -> bool:
        """Whether it is as in the beginning: every process runs, Redis has its replica, every instance serves."""
        return not self.lacks()

    def until_whole(self, what: str) -> None:
        """Wait until it is; where that does not come about, with what was missing last."""
        missing: list[str] = []

        def is_whole() -> bool:
            missing[:] = self.lacks()
            return not missing

        try:
            self.until(is_whole, what)
        except AssertionError as why:
            raise AssertionError(f"{why}; it lacks {missing}") from why

    def lacks(self) -> list[str]:
        """What keeps it from being whole, for people."""
        found = [] if self.store.is_whole() else ["Redis, its replica or a Sentinel"]
        for side in self.sides:
            if not side.names <= side.units().keys():
                found.append(f"a process of {side.name}")
            else:
                found += [f"{each}, says {side.name}" for each in self._lacks_by(side)]
        return found

    def _lacks_by(self, side: Side) -> list[str]:
        try:
            status = side.status()
        except (OSError, http.client.HTTPException) as why:
            return [f"an answer ({why!r})"]
        instances = [each for pool in status["pools"] for each in pool["instances"]]
        missing = {each.name for each in self.instances} - {each["id"].partition("/")[0] for each in instances}
        return [
            *(f"the store ({status['store']})" for _ in range(status["store"] != "up")),
            *(f"{each['id']} ({each['state']}: {each['reason']})" for each in instances if each["state"] not in WELL),
            *sorted(missing),
        ]

    def is_idle(self) -> bool:
        """Whether no slot is held and nobody waits, as Redis itself counts."""
        with suppress(redis.RedisError, OSError):
            loads = self.loads()
            return not any(each.queued or any(one.in_flight for one in each.instances) for each in loads)
        return False

    def usage(self) -> Counter[str]:
        """What Redis has counted as served today by all instances: requests, prompt_tokens, completion_tokens."""
        return asyncio.run(self._usage())

    async def _usage(self) -> Counter[str]:
        counted: Counter[str] = Counter()
        async with self._connected() as connection:
            for counts in (await usage.read(connection, datetime.now(UTC).date().isoformat())).values():
                for name, amount in counts.items():
                    if name.startswith("instance:"):
                        counted[name.rpartition(":")[2]] += amount
        return counted

    # --- changing -----------------------------------------------------------------------------------------------------

    def configure(self, side: Side, instances: Sequence[Instance], slots: int = SLOTS) -> None:
        """Have other instances in a side's cluster.yaml, or other slots on its own; it is replaced at once, as an
        editor does."""
        fresh = side.config.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(configuration(self.plan, side.name, self.store, instances, slots)))
        fresh.replace(side.config)


def configuration(
    plan: Plan, side: str, store: Store, instances: Sequence[Instance], slots: int = SLOTS
) -> dict[str, Any]:
    """cluster.yaml of one side."""
    small, full = plan.models
    return {
        "redis": plan.redis_seen_by(side, store.url),
        **(_own(plan, slots) if plan.cards else _given(plan, instances)),
        "tiers": {"small": {"model": small, "backup": "full"}, "full": {"model": full, "backup": "small"}},
        "routes": {ROUTE: {"primary": "small", "escalate_to": "full", "escalate_if": [{"confidence_below": 0.5}]}},
        # Short, so that a trial does not wait long for what ends by itself; and unloads as often as trials need them.
        "limits": {"lease_ttl_s": LEASE_TTL_S, "between_bytes_s": 6, "cures_an_hour": 1000},
        **plan.settings,
    }


def _given(plan: Plan, instances: Sequence[Instance]) -> dict[str, Any]:
    listed = [
        {"url": plan.url_seen_by(each.name, each.url), "name": each.name, "slots": each.slots} for each in instances
    ]
    return {"instances": listed}


def _own(plan: Plan, slots: int) -> dict[str, Any]:
    wanted = {"slots": slots, "replicas": 2, "context": 2048}
    return {"models": dict.fromkeys(plan.models, wanted), "gateway": {"workers": plan.workers}}


def models_of(number: int) -> tuple[SimulatedModel, ...]:
    """One model an instance: even ones have the small one, odd ones the full one."""
    name = (SMALL, FULL)[number % 2]
    return (model(name, slots=SLOTS),)


@contextmanager
def world_of(folder: Path, plan: Plan | None = None) -> Iterator[World]:
    """A world that is whole; at the end nothing of it is left."""
    plan = plan or Plan()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(plan.around(folder))
        store = redis_of(
            lambda name: plan.folder_of(name, folder / name), plan.launch, plan.sentinels, plan.redis_options
        )
        stack.callback(store.close)
        store.start()
        instances = [
            Instance(f"instance-{n}", folder, models_of(n), plan.speed, plan.launch)
            for n in range(0 if plan.cards else plan.instances)
        ]
        for each in instances:
            stack.callback(each.kill)
            each.begin()
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(Instance.wait_until_loaded, instances))
        world = World(folder, plan, store, instances, stack)
        for name in ("side-a", "side-b")[: plan.sides]:
            config = folder / f"{name}.yaml"
            config.write_text(yaml.safe_dump(configuration(plan, name, store, instances)))
            state = plan.folder_of(name, folder / name)
            side = Side(name, state, config, plan.workers, plan.launch, plan.cards)
            world.sides.append(side)
            stack.callback(side.close)
            side.start()
        for side in world.sides:
            side.wait_until_ready()
        world.until_whole("the world is whole")
        yield world
