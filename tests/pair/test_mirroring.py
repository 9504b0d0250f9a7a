"""What a controller must have to go on from another machine's: the same files in both state folders, by Redis."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app import deployments, settings_in_use, wishes
from orchestrator.app.mirroring import Mirror
from orchestrator.app.paths import StatePaths
from orchestrator.core.deployment import Deployment
from orchestrator.core.errors import HostError, StoreError
from orchestrator.store import kept
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


async def both_have_a_deployment_and_a_wish(one: Machine, two: Machine) -> None:
    one.deploy(1)
    wishes.drain(one.paths, "gpu-1")
    await one.leads()
    await two.stands_by()


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
    await both_have_a_deployment_and_a_wish(one, two)
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
    one: Machine, two: Machine
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


async def test_what_is_put_back_into_redis_is_refused_said_and_told_anew(
    one: Machine, two: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    one.paths.known_hosts.write_text("gpu-1 ssh-ed25519 STOLEN\n")
    wishes.drain(one.paths, "gpu-1")
    await one.leads()
    await two.stands_by()
    before = await one.connection.command("HGETALL", KEPT)
    one.paths.known_hosts.write_text("gpu-1 ssh-ed25519 AAAA\n")
    wishes.undrain(one.paths, "gpu-1")
    await one.leads()
    await two.stands_by()
    await one.connection.command("HSET", KEPT, *(each for pair in before.items() for each in pair))
    await two.mirror.take_over()
    await one.leads()
    for each in (one, two):
        assert each.paths.known_hosts.read_text() == "gpu-1 ssh-ed25519 AAAA\n"
        assert not wishes.read(each.paths).drained
    assert "known_hosts in Redis is older (revision 1) than what this machine has seen (2)" in caplog.text
    assert (await kept.read(one.connection))["known_hosts"].revision == 2


async def test_what_is_taken_out_of_redis_is_removed_nowhere_and_what_is_removed_here_is_everywhere(
    one: Machine, two: Machine
) -> None:
    await both_have_a_deployment_and_a_wish(one, two)
    names = list(await kept.read(one.connection))
    await one.connection.command("HDEL", KEPT, *names)
    wishes.undrain(one.paths, "gpu-1")
    await one.leads()
    await two.stands_by()
    assert (one.number, two.number) == (1, 1)
    assert not wishes.read(two.paths).drained
    assert names == list(await kept.read(one.connection))


async def test_of_two_who_change_a_file_at_once_the_first_stands_on_both(
    one: Machine, two: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    one.paths.known_hosts.write_text("gpu-1 ssh-ed25519 AAAA\n")
    await one.leads()
    await two.stands_by()
    one.paths.known_hosts.write_text("gpu-1 ssh-ed25519 ONES\n")
    two.paths.known_hosts.write_text("gpu-1 ssh-ed25519 TWOS\n")
    await two.stands_by()
    await one.leads()
    assert one.paths.known_hosts.read_text() == two.paths.known_hosts.read_text() == "gpu-1 ssh-ed25519 TWOS\n"
    assert "the other's stands" in caplog.text


@contextmanager
def no_reply(machine: Machine) -> Iterator[None]:
    """What it asks Redis to change is changed, and it does not hear of that."""

    async def script(*asked: Any, **how: Any) -> Any:
        await Connection.script(machine.connection, *asked, **how)
        raise StoreError("the connection broke before the reply")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine.connection, "script", script)
        yield


async def test_what_was_told_without_a_reply_is_no_other_machines_and_the_next_change_here_stands(
    one: Machine, two: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    one.paths.known_hosts.write_text("gpu-1 ssh-ed25519 AAAA\n")
    with no_reply(one), pytest.raises(StoreError):
        await one.leads()
    assert (await kept.read(one.connection))["known_hosts"].revision == 1
    one.paths.known_hosts.write_text("gpu-1 ssh-ed25519 BBBB\n")
    await one.leads()
    await two.stands_by()
    assert one.paths.known_hosts.read_text() == two.paths.known_hosts.read_text() == "gpu-1 ssh-ed25519 BBBB\n"
    assert (await kept.read(one.connection))["known_hosts"].revision == 2
    assert (one.taken, caplog.text) == (0, "")


async def test_a_wish_that_was_told_without_a_reply_can_be_taken_back(one: Machine, two: Machine) -> None:
    wishes.drain(one.paths, "gpu-1")
    with no_reply(one), pytest.raises(StoreError):
        await one.leads()
    wishes.undrain(one.paths, "gpu-1")
    await one.leads()
    await two.stands_by()
    assert not wishes.read(one.paths).drained
    assert not wishes.read(two.paths).drained


async def test_what_another_machine_changed_after_a_reply_was_lost_stands_on_both(one: Machine, two: Machine) -> None:
    one.paths.known_hosts.write_text("gpu-1 ssh-ed25519 AAAA\n")
    with no_reply(one), pytest.raises(StoreError):
        await one.leads()
    await two.stands_by()
    two.paths.known_hosts.write_text("gpu-1 ssh-ed25519 TWOS\n")
    await two.stands_by()
    await one.leads()
    assert one.paths.known_hosts.read_text() == two.paths.known_hosts.read_text() == "gpu-1 ssh-ed25519 TWOS\n"


async def test_a_machine_brought_back_from_a_backup_has_the_newest_and_its_next_word_stands(
    one: Machine, two: Machine, tmp_path: Path
) -> None:
    one.deploy(1)
    await one.leads()
    saved = {name: (one.paths.root / name).read_bytes() for name in ("mirror.json", "deployments/00000001.json")}
    one.deploy(2)
    one.deploy(3)
    await one.leads()
    await two.stands_by()
    root = tmp_path / "again"
    (root / "deployments").mkdir(parents=True)
    for name, content in saved.items():
        (root / name).write_bytes(content)
    again = Machine(root, one.connection)
    await again.mirror.take_over()
    assert again.number == 3
    again.deploy(4)
    await again.leads()
    await two.stands_by()
    assert two.number == 4


async def test_what_the_version_before_left_goes_on_and_its_files_are_taken_no_more_once_they_have_a_date(
    one: Machine, two: Machine
) -> None:
    one.deploy(1)
    one.paths.known_hosts.write_text("gpu-1 ssh-ed25519 AAAA\n")
    await _as_the_version_before(one, two)
    old = await one.connection.command("HGET", KEPT, "known_hosts")
    two.paths.known_hosts.write_text("gpu-1 ssh-ed25519 BBBB\n")  # meanwhile, on the one that was not asked yet
    one, two = Machine(one.paths.root, one.connection), Machine(two.paths.root, two.connection)
    await two.stands_by()
    await one.leads()
    await two.stands_by()
    assert one.paths.known_hosts.read_text() == "gpu-1 ssh-ed25519 BBBB\n"
    assert {each.revision for each in (await kept.read(one.connection)).values()} == {1}
    await one.connection.command("HSET", KEPT, "known_hosts", old, "wishes/drain-0.json", old)
    with pytest.raises(HostError, match="wishes"):  # a seal is of one file
        await two.mirror.take_over()
    await one.connection.command("HDEL", KEPT, "wishes/drain-0.json")
    await two.mirror.take_over()
    assert two.paths.known_hosts.read_text() == "gpu-1 ssh-ed25519 BBBB\n"


async def _as_the_version_before(*machines: Machine) -> None:
    """Files of the first on all of them and in Redis, with digests alone."""
    first, *others = machines
    key = hashlib.blake2b(SECRET, digest_size=32, person=b"olm files").digest()
    digests = {}
    for path in (first.paths.known_hosts, first.paths.root / "deployments" / "00000001.json"):
        name, content = str(path.relative_to(first.paths.root)), path.read_bytes()
        sealed = hashlib.blake2b(name.encode() + b"\n" + content, key=key, digest_size=16).hexdigest()
        digests[name] = sealed
        await first.connection.command("HSET", KEPT, name, sealed.encode() + b" " + content)
        for each in others:
            (each.paths.root / name).parent.mkdir(exist_ok=True)
            (each.paths.root / name).write_bytes(content)
    await first.connection.command("HSET", KEPT, " ", "1763700000000000", "", len(digests))
    for each in machines:
        (each.paths.root / "mirror.json").write_text(json.dumps([["1763700000000000", len(digests)], digests]))


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
