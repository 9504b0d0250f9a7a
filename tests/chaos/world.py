"""A cluster of real processes to be hurt: two gateways, Redis with Sentinels, instances; and whose each one is.

The two machines of a pair are two state folders, each with its own supervisor, controller and workers, on one Redis
that is reached through Sentinels. Instances run beside them, as servers that somebody else runs (`instances:`): played
ones, and where this machine has a real engine, two of that with a pool of their own. `parts`, `real_engine` and
`redis_servers` say what can be done to each.
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

import orjson
import redis
import yaml

from orchestrator.nodes.simulator.config import SimulatedModel
from orchestrator.store import usage
from orchestrator.store.connection import Connection
from orchestrator.store.pools import PoolLoad, in_flight
from orchestrator.store.schema import LEADER, SNAPSHOT
from tests.chaos import answers, real_engine
from tests.chaos.deployed import Deployed, lives
from tests.chaos.history import Sent
from tests.chaos.mixed_load import Callers, any_call, engine_call, question_of
from tests.chaos.parts import Instance, Launch, Side
from tests.chaos.real_engine import Heard, RealEngine
from tests.chaos.redis_servers import Store, redis_of
from tests.cluster.running import REAL_MODEL, TIMEOUT_S
from tests.cluster.running import real_engine as engine_of_this_machine
from tests.fleet.given_world import model

T = TypeVar("T")
SMALL, FULL, ROUTE = "small:1b", "full:8b", "auto"
OWN_MODELS = ("llama3.2:3b-instruct-q4_K_M", "llama3.1:8b-instruct-q4_K_M")
SLOTS = 2
# Of real ones, where there are any: another one goes on where one is gone.
ENGINES = 2
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
    in an exec, so that the pid stays. Names are side-a, side-b, redis-0, redis-1, sentinel-0…2, instance-0…5, engine-0…
    `redis_seen_by(side, url)` may give a side another URL than the Sentinels' own, as that of a proxy;
    `url_seen_by(instance, url)` the gateways another one of an instance. `folder_of(name, folder)` may put the folder
    of a side or a server elsewhere. `speed`: simulated seconds in one; at 1.0 a token takes 7 ms.
    """

    sides: int = 2
    workers: int = 2
    instances: int = 6
    engines: int = 0  # real ones, where this machine has one
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


# The usual one.
USUAL = Plan(engines=ENGINES)


class World:
    """All of it. `at_end(callback)`: whatever a fault must undo, even where the trial fails."""

    def __init__(self, folder: Path, plan: Plan, store: Store, instances: list[Instance], stack: ExitStack) -> None:
        self.folder, self.plan, self.store, self.instances = folder, plan, store, instances
        self.sides: list[Side] = []
        self.deployed = Deployed(folder)
        self.engines: list[RealEngine] = []
        self.heard: dict[str, Heard] = {}  # from the engines, while nobody disturbed them
        self.engine = ""  # what it is, for people
        self._stack = stack
        self._never = threading.Event()

    def launch(self, name: str, argv: list[str]) -> list[str]:
        """The command of a side."""
        return self.plan.launch(name, self.deployed.before(argv) if self.plan.cards else argv)

    def at_end(self, callback: Callable[[], object]) -> None:
        self._stack.callback(callback)

    def side(self, name: str) -> Side:
        return next(each for each in self.sides if each.name == name)

    def instance(self, name: str) -> Instance:
        return next(each for each in self.instances if each.name == name)

    # --- calls --------------------------------------------------------------------------------------------------------

    def callers(self, clients: int, engine_clients: int, engine_rest_s: float) -> list[Callers]:
        """Who asks: many of the played instances, few of the real engines."""
        models = (*self.plan.models, ROUTE)
        many = Callers("c", clients, lambda rng, id_: any_call(rng, id_, models))
        questions = list(self.heard)
        few = Callers(
            "engine-",
            engine_clients if self.engines else 0,
            lambda rng, id_: engine_call(rng, id_, REAL_MODEL, questions, real_engine.TOKENS, real_engine.SEED),
            engine_rest_s,
        )
        return [many, few]

    def says(self, sent: Sent, model: str) -> tuple[str, ...]:
        """What a model may say to a call."""
        return (self.heard[question_of(sent)].text,) if model == REAL_MODEL else answers.meant(sent, model)

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

    def published(self) -> set[str]:
        """The names of the instances in what was published last."""
        told = orjson.loads(self.store.master().command("GET", SNAPSHOT))
        return {each["id"].partition("/")[0] for pool in told["snapshot"]["pools"] for each in pool["instances"]}

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
        wanted = {each.name for each in (*self.instances, *self.engines)}
        missing = wanted - {each["id"].partition("/")[0] for each in instances}
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

    def journals(self) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int]]:
        """What each played instance, or each process of one, has counted itself; and its slots."""
        if self.plan.cards:
            return lives(self.deployed.journals())
        return {each.name: each.events() for each in self.instances}, {each.name: each.slots for each in self.instances}

    def usage(self, of: Sequence[RealEngine] = ()) -> Counter[str]:
        """What Redis has counted as served today: requests, prompt_tokens, completion_tokens. `of`: by these real
        engines; without one by all played instances."""
        engines = tuple(f"instance:{each.name}/" for each in of or self.engines)
        return asyncio.run(self._usage(lambda name: name.startswith(engines) if of else not name.startswith(engines)))

    async def _usage(self, is_meant: Callable[[str], bool]) -> Counter[str]:
        counted: Counter[str] = Counter()
        async with self._connected() as connection:
            for counts in (await usage.read(connection, datetime.now(UTC).date().isoformat())).values():
                for name, amount in counts.items():
                    if name.startswith("instance:") and is_meant(name):
                        counted[name.rpartition(":")[2]] += amount
        return counted

    # --- changing -----------------------------------------------------------------------------------------------------

    def configure(self, side: Side, instances: Sequence[Instance], slots: int = SLOTS) -> None:
        """Have other instances in a side's cluster.yaml, or other slots on its own; it is replaced at once, as an
        editor does."""
        fresh = side.config.with_suffix(".new")
        every = [*instances, *self.engines]
        fresh.write_text(yaml.safe_dump(configuration(self.plan, side.name, self.store, every, slots)))
        fresh.replace(side.config)


def configuration(
    plan: Plan, side: str, store: Store, instances: Sequence[Instance | RealEngine], slots: int = SLOTS
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


def _given(plan: Plan, instances: Sequence[Instance | RealEngine]) -> dict[str, Any]:
    listed = [
        {"url": plan.url_seen_by(each.name, each.url), "name": each.name, "slots": each.slots}
        | ({"model": REAL_MODEL} if isinstance(each, RealEngine) else {})
        for each in instances
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
    plan = plan or USUAL
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
        _add_engines(world, stack)
        for name in ("side-a", "side-b")[: plan.sides]:
            config = folder / f"{name}.yaml"
            config.write_text(yaml.safe_dump(configuration(plan, name, store, [*instances, *world.engines])))
            state = plan.folder_of(name, folder / name)
            side = Side(name, state, config, plan.workers, world.launch, plan.cards)
            world.sides.append(side)
            stack.callback(side.close)
            side.start()
        for side in world.sides:
            side.wait_until_ready()
        world.until_whole("the world is whole")
        yield world


def _add_engines(world: World, stack: ExitStack) -> None:
    """Real engines, where the plan wants some and there are any; they are listened to before anything else begins."""
    found = engine_of_this_machine()
    if world.plan.engines == 0 or isinstance(found, str):
        return
    world.engine = real_engine.name_of(found)
    for number in range(world.plan.engines):
        engine = RealEngine(f"engine-{number}", world.folder, found, world.plan.launch)
        stack.callback(engine.kill)
        engine.begin()
        world.engines.append(engine)
    for each in world.engines:
        each.wait_until_loaded()
    world.heard = real_engine.heard(world.engines)
