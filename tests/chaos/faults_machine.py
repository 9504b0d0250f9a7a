"""Faults of the machine: packets dropped, disks full, files used up, names unknown, clocks set.

They need a world in namespaces of its own (`apart`): the loopback, the mounts and the names there are nobody else's.
"""

from __future__ import annotations

import itertools
import random
import resource
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.chaos import apart, clock
from tests.chaos.apart import Names, Wall, fill, own_namespaces, small_disk
from tests.chaos.clock import Clock
from tests.chaos.faults import Allowed, ByItself, Fault
from tests.chaos.parts import ROOT, Instance, Side
from tests.chaos.world import ENGINES, Plan, World

HOUR_S = 3600
# Files that a worker may have open, of which it needs some forty for itself; and connections that nobody uses.
FEW_FILES, IDLE_CONNECTIONS = 256, 600
WITHOUT_FILES_S = 3.0


class Machine:
    """What of a machine a world uses, and what can be done to it, from the world's beginning to its end."""

    names: Names
    wall: Wall
    clock: Clock  # Redis'
    other_clock: Clock  # of the first machine of the pair

    @contextmanager
    def around(self, folder: Path) -> Iterator[None]:
        """Namespaces of its own, and in them what a world's parts meet of their machine."""
        with own_namespaces():
            self.names, self.wall = Names(folder), Wall()
            self.clock, self.other_clock = Clock(folder / "clock"), Clock(folder / "other-clock")
            yield

    def launch(self, name: str, argv: list[str]) -> list[str]:
        if name == "side-a":
            return self.other_clock.before_all(argv, ROOT)
        return self.clock.before(argv) if name.startswith("redis-") else argv

    def folder_of(self, name: str, folder: Path) -> Path:
        return small_disk(folder) if name.startswith("side-") else folder

    def url_seen_by(self, name: str, url: str) -> str:
        """Of an instance, which has a name from then on."""
        self.names.know(name)
        return url.replace("127.0.0.1", self.names.of(name))


MACHINE = Machine()
PLAN = Plan(
    engines=ENGINES,
    launch=MACHINE.launch,
    folder_of=MACHINE.folder_of,
    url_seen_by=MACHINE.url_seen_by,
    around=MACHINE.around,
)


class OfMachine(ByItself):
    """It needs a world whose machine can be hurt; somebody sees to it in the end."""

    heals_itself = False
    plan = PLAN

    def lacks(self) -> str:
        return apart.missing() or clock.missing()


class Walled(OfMachine):
    """Packets to a port are dropped until the wall is taken down."""

    def inject(self, world: World, rng: random.Random) -> None:
        MACHINE.wall.drop(self.port(world, rng))

    def port(self, world: World, rng: random.Random) -> int:
        raise NotImplementedError

    def heal(self, world: World) -> None:
        MACHINE.wall.open()


class HalfOpen(Walled):
    name = "Instance cut off: every packet dropped, no connection closed"
    promise = "Others answer; its streams are given up once they were silent for too long."
    allows = Allowed(error_frames=True, uncounted=True, again=True)

    def port(self, world: World, rng: random.Random) -> int:
        chosen: Instance = rng.choice(world.instances)
        return chosen.port


class RedisCutOff(Walled):
    name = "Redis cut off: every packet dropped, no connection closed"
    promise = "Calls that just asked it wait some seconds; the others notice nothing."
    allows = Allowed(uncounted=True)

    def port(self, world: World, rng: random.Random) -> int:
        return world.store.master().port


class OfOneSide(OfMachine):
    """One machine of the pair is hurt until somebody sees to it."""

    _side: Side

    def inject(self, world: World, rng: random.Random) -> None:
        self._side = rng.choice(world.sides)
        self.hurt(world, rng)

    def hurt(self, world: World, rng: random.Random) -> None:
        raise NotImplementedError


class DiskFull(OfOneSide):
    name = "Disk of the state folder full, and a gateway worker killed"
    promise = "Its connections end with it; it comes back, and calls go on without their records."
    allows = Allowed(cut=True, uncounted=True)

    def hurt(self, world: World, rng: random.Random) -> None:
        self._filler = fill(self._side.state)
        killed = psutil.Process(rng.choice(self._side.workers()))
        killed.send_signal(signal.SIGKILL)
        world.until(lambda: not killed.is_running(), "the worker has ended")
        world.until_whole("it is there again, on a full disk")

    def heal(self, world: World) -> None:
        self._filler.unlink()


class FilesUsedUp(OfOneSide):
    name = "File descriptors nearly used up by connections that rest"
    promise = "Connections that nobody uses are closed; calls are answered."

    def hurt(self, world: World, rng: random.Random) -> None:
        self._workers = self._side.workers()
        self._limit_to(FEW_FILES)
        world.at_end(lambda: self.heal(world))
        host, port = self._side.listen.split(":")
        self._resting = [socket.create_connection((host, int(port)), timeout=30) for _ in range(IDLE_CONNECTIONS)]

    def _limit_to(self, files: int) -> None:
        for pid in self._workers:
            if psutil.pid_exists(pid):
                _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(files, hard), hard))

    def heal(self, world: World) -> None:
        self._limit_to(2**31)
        for each in self._resting:
            each.close()


class NoFilesLeft(OfOneSide):
    """Its workers may have no more files open than they have, until it is seen to; nothing is there to be closed."""

    name = "File descriptors used up: the workers of a machine may open none for 3 s"
    promise = "Who is connected is answered, or told when to come back; who connects is closed out, unanswered."
    allows = Allowed(cut=True, refused=True)
    heals_itself = True

    def hurt(self, world: World, rng: random.Random) -> None:
        workers = self._side.workers()
        before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in workers}

        def lift() -> None:
            for pid, limits in before.items():
                if psutil.pid_exists(pid):
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)

        world.at_end(lift)
        for pid, (_, hard) in before.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (_first_free(pid), hard))
        over_s = time.monotonic() + WITHOUT_FILES_S
        world.until(lambda: time.monotonic() > over_s, "it was so for a while")
        lift()

    def heal(self, world: World) -> None:
        """It is over."""


def _first_free(pid: int) -> int:
    """The lowest number that no open file of a process has: the next one would get it."""
    taken = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in itertools.count() if number not in taken)


class NamesUnknown(OfMachine):
    name = "DNS gone: no instance's name is known any more"
    promise = "Nothing: instances are asked where they were found last."

    def inject(self, world: World, rng: random.Random) -> None:
        MACHINE.names.forget()

    def heal(self, world: World) -> None:
        MACHINE.names.know(*(each.name for each in (*world.instances, *world.engines)))


class ClockAhead(OfMachine):
    name = "Redis' clock set an hour ahead, and back again"
    promise = "Nothing: leases that seem to have ended are renewed first."
    allows = Allowed(uncounted=True)
    ahead_s = HOUR_S

    def inject(self, world: World, rng: random.Random) -> None:
        MACHINE.clock.set_ahead(self.ahead_s)

    def heal(self, world: World) -> None:
        MACHINE.clock.set_ahead(0)


class ClockBehind(ClockAhead):
    name = "Redis' clock set an hour back, and right again"
    promise = "Nothing: what was to end in a while still does."
    ahead_s = -HOUR_S


class GatewayClockAhead(OfMachine):
    name = "A gateway machine's clock set an hour ahead, and back again"
    promise = "Nothing: what was kept an hour ago is too old to it, leases and lines go by Redis' clock."
    allows = Allowed(uncounted=True)  # some of it under another day, near midnight
    ahead_s = HOUR_S

    def inject(self, world: World, rng: random.Random) -> None:
        MACHINE.other_clock.set_ahead(self.ahead_s)

    def heal(self, world: World) -> None:
        MACHINE.other_clock.set_ahead(0)


class GatewayClockBehind(GatewayClockAhead):
    name = "A gateway machine's clock set an hour back, and right again"
    promise = "Nothing: leases and lines go by Redis' clock."
    ahead_s = -HOUR_S


MACHINE_FAULTS: tuple[type[Fault], ...] = (
    HalfOpen,
    RedisCutOff,
    DiskFull,
    FilesUsedUp,
    NoFilesLeft,
    NamesUnknown,
    ClockAhead,
    ClockBehind,
    GatewayClockAhead,
    GatewayClockBehind,
)
