"""Faults of processes: instances that end, fall silent or answer wrongly; workers, gateways, controllers that end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

import psutil

from tests.chaos.failing_over import FailOver
from tests.chaos.faults import Allowed, ByItself, Fault
from tests.chaos.parts import Instance, Side
from tests.chaos.world import LEASE_TTL_S, SLOTS, SMALL, Plan, World
from tests.cluster.running import until


class OfInstance(ByItself):
    """One instance is hurt until its owner sees to it: the cluster neither starts nor stops it."""

    heals_itself = False
    _hurt: Instance

    def inject(self, world: World, rng: random.Random) -> None:
        self._hurt = rng.choice(world.instances)
        self.hurt(self._hurt)

    def hurt(self, instance: Instance) -> None:
        raise NotImplementedError


class Dying(OfInstance):
    """Whoever runs the instance starts it again; nobody tells the cluster."""

    def hurt(self, instance: Instance) -> None:
        self.end(instance)
        until(lambda: not instance.is_running, f"{instance.name} has ended")

    def end(self, instance: Instance) -> None:
        raise NotImplementedError

    def heal(self, world: World) -> None:
        self._hurt.kill()
        self._hurt.start()


class KilledBeforeItsFirstByte(Dying):
    name = "Instance killed with a call that it has just taken"
    promise = "Nothing: another instance answers, and goes on with the streams that it had begun."

    def end(self, instance: Instance) -> None:
        instance.behave("die", left=1)


class KilledBetweenTokens(Dying):
    name = "Instance killed between two tokens of a stream"
    promise = "Nothing: another instance goes on where the stream broke off."

    def end(self, instance: Instance) -> None:
        instance.behave("die", after=4, left=1, only_streams=True)


class KilledWithinAToken(Dying):
    name = "Instance killed in the middle of a token, half of its frame sent"
    promise = "Nothing: another instance goes on where the stream broke off."

    def end(self, instance: Instance) -> None:
        instance.behave("torn", after=4, left=1, only_streams=True)


class KilledAtAnyMoment(Dying):
    name = "Instance killed at any moment"
    promise = "Nothing: other instances answer, and go on with its streams."

    def end(self, instance: Instance) -> None:
        instance.kill()


class Misbehaving(OfInstance):
    """The instance's process goes on, and does wrong until it is told otherwise."""

    wrong: ClassVar[dict[str, Any]]

    def hurt(self, instance: Instance) -> None:
        before = _met(instance)
        instance.behave(**self.wrong)
        if "what" in self.wrong:
            until(lambda: _met(instance) > before, f"a call meets what {instance.name} does wrong")

    def heal(self, world: World) -> None:
        self._hurt.behave()


class Hanging(Misbehaving):
    name = "Instance hangs: takes calls, answers none, looks well"
    promise = "Another instance answers, once it has been silent for longer than its history allows."
    wrong: ClassVar[dict[str, Any]] = {"what": "hang"}


class HangingMidway(Misbehaving):
    name = "Instance falls silent within its streams"
    promise = "A pause within the stream; then another instance goes on with it."
    wrong: ClassVar[dict[str, Any]] = {"what": "hang", "after": 4, "left": 4, "only_streams": True}


class Frozen(OfInstance):
    name = "Instance frozen (SIGSTOP)"
    promise = "Another instance answers; streams under way pause, then another one goes on with them."

    def hurt(self, instance: Instance) -> None:
        instance.pause()

    def heal(self, world: World) -> None:
        self._hurt.go_on()


class Slow(Misbehaving):
    name = "Instance ten times slower"
    promise = "Answers take longer there; other instances get more of the calls."
    wrong: ClassVar[dict[str, Any]] = {"slower": 10.0}


class Garbage(Misbehaving):
    name = "Instance sends a frame that is no JSON"
    promise = "Nothing: another instance answers, or goes on where the frame should have been."
    wrong: ClassVar[dict[str, Any]] = {"what": "garbage", "after": 3, "left": 5}


class EarlyEof(Misbehaving):
    name = "Instance closes connections midway"
    promise = "Nothing: another instance answers, or goes on where the stream broke off."
    wrong: ClassVar[dict[str, Any]] = {"what": "eof", "after": 3, "left": 5}


class HalfAFrame(Misbehaving):
    name = "Instance closes connections in the middle of a frame"
    promise = "Nothing: another instance answers, or goes on where the stream broke off."
    wrong: ClassVar[dict[str, Any]] = {"what": "half", "after": 3, "left": 5}


class EndWithoutLastFrame(Misbehaving):
    name = "Instance ends streams without their last frame"
    promise = "Nothing: another instance goes on where the stream broke off."
    wrong: ClassVar[dict[str, Any]] = {"what": "done", "after": 3, "left": 5, "only_streams": True}


class ErrorStorm(Misbehaving):
    name = "Instance answers 500 to everything"
    promise = "Another instance answers; it is ejected until it answers again."
    wrong: ClassVar[dict[str, Any]] = {"what": "error"}


class QueueFull(Misbehaving):
    name = "Instance answers 503, its queue is full"
    promise = "Another instance answers."
    wrong: ClassVar[dict[str, Any]] = {"what": "busy"}


class Unloaded(ByItself):
    name = "A model unloaded by hand on every instance that has it"
    promise = "Calls wait in line while it is loaded again."

    def inject(self, world: World, rng: random.Random) -> None:
        for each in world.instances:
            if each.models[0].name == SMALL:
                each.unload()


# --- gateways and controllers -----------------------------------------------------------------------------------------


class OfSide(ByItself):
    """One machine of the pair is hurt."""

    _hurt: Side

    def inject(self, world: World, rng: random.Random) -> None:
        self._hurt = rng.choice(world.sides)
        self.hurt(world, rng, self._hurt)

    def hurt(self, world: World, rng: random.Random, side: Side) -> None:
        raise NotImplementedError


class WorkerKilled(OfSide):
    name = "Gateway worker killed"
    promise = "Its connections end, and its streams with them; new ones go to others, or wait until it is there again."
    allows = Allowed(cut=True, uncounted=True)

    def hurt(self, world: World, rng: random.Random, side: Side) -> None:
        _kill(rng.choice(side.workers()))


class OfLeader(OfSide):
    """The one of the machines whose controller leads is hurt: another controller follows."""

    def __init__(self) -> None:
        self._fail_over = FailOver()

    def inject(self, world: World, rng: random.Random) -> None:
        self._hurt = world.leader()
        self._fail_over.of_controller(world, lambda: self.hurt(world, rng, self._hurt))

    def steps(self) -> Mapping[str, float]:
        return self._fail_over.steps()


class GatewayKilled(OfLeader):
    name = "A whole gateway machine killed"
    promise = "Its connections end; who cannot connect asks the other gateway. While it starts, who connects waits."
    allows = Allowed(cut=True, uncounted=True)
    heals_itself = False

    def hurt(self, world: World, rng: random.Random, side: Side) -> None:
        side.kill()

    def heal(self, world: World) -> None:
        self._hurt.start()
        self._hurt.wait_until_ready()


class SupervisorKilled(GatewayKilled):
    name = "The supervisor of a gateway killed (kill -9)"
    promise = "All of that machine ends with it; the other gateway serves everything."

    def hurt(self, world: World, rng: random.Random, side: Side) -> None:
        os.kill(side.pid, signal.SIGKILL)
        world.until(lambda: not side.pids(), f"all of {side.name} has ended")


class WorkerPaused(OfSide):
    name = "Gateway worker paused past its leases, and continued"
    promise = "Its calls wait; their slots are given to others once their leases have ended."
    allows = Allowed(cut=True, error_frames=True, refused=True, uncounted=True)

    def hurt(self, world: World, rng: random.Random, side: Side) -> None:
        pid = rng.choice(side.workers())
        os.kill(pid, signal.SIGSTOP)
        world.at_end(lambda: _continue(pid))
        wait_past_leases(world)
        _continue(pid)


class GatewayPaused(OfSide):
    name = "A whole gateway machine paused past its leases, and continued"
    promise = "Its calls wait until it goes on; the other gateway serves everybody else."
    allows = Allowed(cut=True, error_frames=True, refused=True, uncounted=True)

    def hurt(self, world: World, rng: random.Random, side: Side) -> None:
        side.pause()
        world.at_end(side.go_on)
        wait_past_leases(world)
        side.go_on()


class ControllerKilled(OfLeader):
    name = "Controller killed"
    promise = "Nothing: gateways serve what was published last, and another one takes over."

    def hurt(self, world: World, rng: random.Random, side: Side) -> None:
        _kill(side.controller())


class LeaderPaused(ByItself):
    """The other one takes an instance out meanwhile, which the older one still has: so its word can be told from
    the newer one's."""

    name = "Leading controller paused until another one leads, and continued: two at once"
    promise = "Nothing: the older one's word is no longer taken."

    def inject(self, world: World, rng: random.Random) -> None:
        leader, gone = world.leader(), rng.choice(world.instances)
        pid, ended = leader.controller(), _times_ended(leader)
        os.kill(pid, signal.SIGSTOP)
        world.at_end(lambda: _continue(pid))
        world.until(lambda: world.leader() is not leader, "another controller leads")
        for side in world.sides:
            world.configure(side, [each for each in world.instances if each is not gone])
        world.until(lambda: gone.name not in world.published(), f"{gone.name} is taken out")
        _continue(pid)
        world.until(lambda: self._has_heard(world, leader, ended, gone), "the older one knows that it leads no longer")
        for side in world.sides:
            world.configure(side, world.instances)

    def _has_heard(self, world: World, older: Side, ended: int, gone: Instance) -> bool:
        """Whether the older one knows; until then, and right then, nothing of its word may be published."""
        knows = _times_ended(older) > ended
        assert gone.name not in world.published(), "the older controller's word was taken"
        return knows


class ControllersKilledInAChange(ByItself):
    name = "Both controllers killed while an edit takes an instance out"
    promise = "Nothing: whoever starts next goes on from the settings."
    heals_itself = False

    def inject(self, world: World, rng: random.Random) -> None:
        gone = rng.choice(world.instances)
        for side in world.sides:
            world.configure(side, [each for each in world.instances if each is not gone])
        for side in world.sides:
            _kill(side.controller())

    def heal(self, world: World) -> None:
        for side in world.sides:
            world.configure(side, world.instances)


class ControllerKilledInARollout(ByItself):
    """Of a machine that deploys its instances itself: they get another number of slots, one after another."""

    name = "Controller killed while it rolls out new instances"
    promise = "Nothing: the next one goes on where it stopped, and nothing half made is left."
    plan = Plan(sides=1, sentinels=0, cards="2x RTX 4090")

    def inject(self, world: World, rng: random.Random) -> None:
        (side,) = world.sides
        controller = side.controller()
        world.configure(side, (), SLOTS + 1)
        world.until(lambda: _slots_of(world) == {SLOTS, SLOTS + 1}, "some instances are the new ones")
        _kill(controller)
        self._until_rolled_out(world, SLOTS + 1)

    def heal(self, world: World) -> None:
        (side,) = world.sides
        world.configure(side, ())
        self._until_rolled_out(world, SLOTS)

    def _until_rolled_out(self, world: World, slots: int) -> None:
        world.until(lambda: _slots_of(world) == {slots}, f"every instance has {slots} slots")
        world.until(lambda: _units_beside(world) == 0, "a process for each instance, and no other")


def _slots_of(world: World) -> set[int]:
    """How many slots instances have that are there or on their way."""
    return {each["slots"] for each in _instances_of(world)}


def _instances_of(world: World) -> list[dict[str, Any]]:
    return [each for pool in world.status().get("pools", ()) for each in pool["instances"]]


def _units_beside(world: World) -> int:
    """Engine processes that are no instance."""
    (side,) = world.sides
    engines = [each for each in side.units() if each not in side.names | {"guardian"}]
    return len(engines) - len(_instances_of(world))


def _times_ended(side: Side) -> int:
    """How often its controller has said that it leads no longer."""
    return side.log_of("controller").count("leads no longer")


def _met(instance: Instance) -> int:
    """How many calls have met something there."""
    return sum(bool(each.get("meets")) for each in instance.events())


def wait_past_leases(world: World) -> None:
    """Until every lease that was there at this moment has ended, unless it was renewed."""
    over_s = time.monotonic() + LEASE_TTL_S + 1.0
    world.until(lambda: time.monotonic() > over_s, "the leases have ended")


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    with suppress(psutil.NoSuchProcess):
        psutil.wait_procs([psutil.Process(pid)], timeout=30)


def _continue(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


PROCESS_FAULTS: tuple[type[Fault], ...] = (
    KilledBeforeItsFirstByte,
    KilledBetweenTokens,
    KilledWithinAToken,
    KilledAtAnyMoment,
    Hanging,
    HangingMidway,
    Frozen,
    Slow,
    Garbage,
    EarlyEof,
    HalfAFrame,
    EndWithoutLastFrame,
    ErrorStorm,
    QueueFull,
    Unloaded,
    WorkerKilled,
    GatewayKilled,
    SupervisorKilled,
    WorkerPaused,
    GatewayPaused,
    ControllerKilled,
    LeaderPaused,
    ControllersKilledInAChange,
    ControllerKilledInARollout,
)
