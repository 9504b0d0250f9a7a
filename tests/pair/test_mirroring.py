"""What a controller must have to go on from another machine's: the same files in both state folders, by Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.app import deployments, mirroring, settings_in_use, wishes
from orchestrator.app.mirroring import Mirror
from orchestrator.app.paths import StatePaths
from orchestrator.core.deployment import Deployment
from orchestrator.core.errors import HostError
from orchestrator.store.connection import Connection
from orchestrator.store.schema import KEPT
from tests.store.playing import Connect, Server, back

SECRET = b"what both machines know"


class Machine:
    """One state folder, and how it is kept the same as others."""

    def __init__(self, root: Path, connection: Connection, secret: bytes = SECRET) -> None:
        root.mkdir(exist_ok=True)
        self.paths, self.connection = StatePaths(root), connection
        self.taken = 0
        self.mirror = Mirror(self.paths, connection, secret, self._took)

    def _took(self) -> None:
        self.taken += 1

    async def leads(self) -> None:
        await self.mirror.agree(begins=True)

    async def stands_by(self) -> None:
        await self.mirror.agree(begins=False)

    def deploy(self, number: int) -> None:
        deployments.write(self.paths, deployment(number))

    @property
    def number(self) -> int:
        current = deployments.current(self.paths)
        return current.number if current is not None else 0


def deployment(number: int) -> Deployment:
    return Deployment(number, 1_763_700_000_000, "a test", ())


@pytest.fixture
async def one(redis: Server, connect: Connect, tmp_path: Path) -> Machine:
    """The machine whose controller leads."""
    return Machine(tmp_path / "one", await connect(redis))


@pytest.fixture
async def two(redis: Server, connect: Connect, tmp_path: Path) -> Machine:
    """The machine that stands by."""
    return Machine(tmp_path / "two", await connect(redis))


async def test_what_is_deployed_and_wished_on_the_one_is_there_for_the_other(one: Machine, two: Machine) -> None:
    one.deploy(1)
    wishes.drain(one.paths, "gpu-1")
    one.paths.known_hosts.write_text("gpu-1 ssh-ed25519 AAAA\n")
    await one.leads()
    await two.stands_by()
    assert deployments.current(two.paths) == deployment(1)
    assert wishes.read(two.paths).drained == {"gpu-1"}
    assert two.paths.known_hosts.read_text() == "gpu-1 ssh-ed25519 AAAA\n"
    assert (one.taken, two.taken) == (0, 1)


async def test_whoever_takes_over_owns_the_hosts_of_the_one_before(one: Machine, two: Machine) -> None:
    await one.mirror.take_over()
    await one.leads()
    await two.mirror.take_over()
    assert settings_in_use.owner(two.paths) == settings_in_use.place(one.paths) != settings_in_use.place(two.paths)


async def test_what_an_operator_wants_on_the_one_that_stands_by_is_done_by_the_leader(
    one: Machine, two: Machine
) -> None:
    one.deploy(1)
    wishes.drain(one.paths, "gpu-1")
    await one.leads()
    await two.stands_by()
    two.deploy(2)
    wishes.undrain(two.paths, "gpu-1")
    await two.stands_by()
    await one.leads()
    assert one.number == 2
    assert not wishes.read(one.paths).drained


async def test_of_two_deployments_with_one_number_the_first_stands_on_both(one: Machine, two: Machine) -> None:
    await one.leads()
    deployments.write(one.paths, deployment(1))
    deployments.write(two.paths, Deployment(1, 7, "another", ()))
    await one.leads()
    with pytest.raises(HostError, match="deployments of its own"):
        await two.stands_by()
    for each in (two.paths.root / "deployments").glob("*.json"):
        each.unlink()
    await two.stands_by()
    assert deployments.current(two.paths) == deployment(1)


async def test_an_emptied_redis_is_told_anew_by_the_leader_and_nothing_is_gone_for_it(
    one: Machine, two: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.deploy(1)
    await one.leads()
    one.deploy(2)
    await one.leads()
    await two.stands_by()
    await one.connection.command("FLUSHALL")
    await two.stands_by()
    assert two.number == 2
    one.deploy(3)
    await one.leads()
    assert one.number == 3
    await two.stands_by()  # Redis is not as far as it was: the leader may have more to say
    assert two.number == 2
    monkeypatch.setattr(mirroring, "TOLD_AGAIN_S", 0.0)
    await two.stands_by()
    assert two.number == 3


async def test_a_fail_over_that_lost_the_last_deployment_takes_it_from_nobody(one: Machine, two: Machine) -> None:
    one.deploy(1)
    await one.leads()
    before = await one.connection.command("DUMP", KEPT)
    one.deploy(2)
    await one.leads()
    await two.stands_by()
    await one.connection.command("RESTORE", KEPT, 0, before, "REPLACE")
    await two.stands_by()
    assert two.number == 2
    await one.leads()
    assert (one.number, two.number) == (2, 2)
    assert await one.connection.command("HEXISTS", KEPT, "deployments/00000002.json")


async def test_what_somebody_wrote_to_redis_without_the_secret_is_not_taken(one: Machine, two: Machine) -> None:
    one.deploy(1)
    await one.leads()
    digest, _, content = (await one.connection.command("HGET", KEPT, "deployments/00000001.json")).partition(b" ")
    forged = content.replace(b"a test", b"nobody")
    await one.connection.command("HSET", KEPT, "deployments/00000001.json", digest + b" " + forged)
    with pytest.raises(HostError, match=r"cache\.secret"):
        await two.stands_by()
    assert two.number == 0


async def test_a_machine_with_another_secret_is_told_what_to_do(
    one: Machine, redis: Server, connect: Connect, tmp_path: Path
) -> None:
    one.deploy(1)
    await one.leads()
    stranger = Machine(tmp_path / "stranger", await connect(redis), b"another")
    with pytest.raises(HostError, match=r"the same `cache\.secret`"):
        await stranger.mirror.take_over()
    assert stranger.mirror.problem


async def test_a_machine_that_was_down_goes_on_from_what_it_had(one: Machine, two: Machine, redis: Server) -> None:
    one.deploy(1)
    await one.leads()
    await two.stands_by()
    one.deploy(2)
    wishes.restart(one.paths, "gpu-1")
    await one.leads()
    redis.kill()
    redis.start()
    await back(one.connection, two.connection)
    again = Machine(two.paths.root, two.connection)
    await again.mirror.take_over()
    assert again.number == 2
    assert wishes.read(again.paths).restarts == {"gpu-1"}
