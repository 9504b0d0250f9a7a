"""Models from one host to another: whole or not at all, to nobody without a token, and gone on with after a cut."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from orchestrator.core.model import ModelOnDisk, NodeFacts, NodeName
from orchestrator.fleet.inventory import look_at
from orchestrator.fleet.spreading import Copied, CopyFailed, Progress, spread
from orchestrator.nodes.model_copy import CopyTo, Offer, Waits, giving
from orchestrator.nodes.onhost.ollamas import Models
from orchestrator.nodes.simulator.as_ollama import model_of
from orchestrator.nodes.simulator.folder import ModelFolder, PullPace
from orchestrator.nodes.ssh import SshHost, SshWaits, connected
from tests.hosts.machines import Machine, Network
from tests.hosts.reaching import MODELS, address, known, node, reach
from tests.hosts.test_stand_in import serving

MODEL = "llama3.1:8b"
OWNER = "guest"
ONE, TWO = NodeName("gpu-1"), NodeName("gpu-2")
MIB = 2**20
IMPATIENT = Waits(silence_s=3.0, progress_s=0.05)  # where somebody is going to be silent


class World:
    """Two hosts, the models on them, and what `spread` is told of them.

    A node's name may be that of a host and a letter, `gpu-1b`: then it is the same host with a folder of its own.
    """

    def __init__(self, hosts: Network, folder: Path) -> None:
        self.hosts, self.folder = hosts, folder
        self.keys = known(folder, *hosts.machines.values())
        self.progress: list[Progress] = []
        self.on_progress: Callable[[Progress], None] = self.progress.append
        self.waits = Waits(silence_s=15.0, progress_s=0.05)

    def machine(self, name: str) -> Machine:
        return self.hosts.machines[name[:5]]

    def models_dir(self, name: str) -> str:
        return MODELS + name[5:]

    def blobs(self, name: str) -> Path:
        return self.machine(name).files / self.models_dir(name)[1:] / "blobs"

    async def pulled(self, name: str, model: str = MODEL, size: int = 2 * MIB) -> None:
        """As if an instance there had pulled it."""
        place = self.models_dir(name)
        files = self.machine(name).files / place[1:]
        folder = ModelFolder(files, lambda each: model_of(each, {}, on_gpu=False), lambda: PullPace(size, 1e12))
        assert [line async for line in folder.pull(model)][-1] == {"status": "success"}
        self.machine(name).run("chown", "-R", f"{OWNER}:{OWNER}", place)

    def at(self, name: str) -> CopyTo:
        return CopyTo(self.machine(name).address, self.models_dir(name), OWNER)

    def connect(self, name: str) -> AbstractAsyncContextManager[SshHost]:
        to = replace(address(self.hosts, self.machine(name)), node=NodeName(name))
        return connected(to, self.keys, SshWaits(connect_s=5))

    def facts(self, *names: str) -> dict[NodeName, NodeFacts]:
        """What a look would tell of each node's models."""
        return {
            NodeName(name): NodeFacts(NodeName(name), name, "", 1, 0, 0, 0, models=self.models(name)) for name in names
        }

    def models(self, name: str) -> tuple[ModelOnDisk, ...]:
        found, _ = Models(self.blobs(name).parent).present()
        return tuple(ModelOnDisk(each["name"], each["digest"], each["size_bytes"]) for each in found)

    async def spread(
        self, *models: str, to: Sequence[str] = (TWO,), among: Sequence[str] = (ONE, TWO), mib_s: float | None = None
    ) -> tuple[Copied | CopyFailed, ...]:
        wanted = {NodeName(each): models or (MODEL,) for each in to}
        facts, tell = self.facts(*among), lambda each: self.on_progress(each)
        return await spread(wanted, facts, self.connect, self.at, mib_s=mib_s, on_progress=tell, waits=self.waits)

    def when_begun(self, act: Callable[[], object]) -> None:
        """Do something once, when some of the bytes are there and not all."""

        def tell(each: Progress) -> None:
            self.progress.append(each)
            if 0 < each.done < each.total:
                self.on_progress = self.progress.append
                act()

        self.on_progress = tell

    def files_of(self, name: str) -> dict[str, tuple[str, ...]]:
        """Every file of a node's models with its digest and its owner, as seen there."""
        find = ["find", ".", "-type", "f", "-printf", "%u %p\\n", "-exec", "sha256sum", "{}", ";"]
        there = self.machine(name).run("env", "-C", self.models_dir(name), *find, check=False)
        found: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
        for line in there.splitlines():
            told, path = line.split()
            found[path] += (told,)
        return dict(found)


@pytest.fixture
def world(hosts: Network, tmp_path: Path) -> Iterator[World]:
    for each in hosts.machines.values():
        each.run("sh", "-c", f"rm -rf {MODELS}*")
    yield World(hosts, tmp_path)
    for each in hosts.machines.values():
        each.mend()
        if each.process is None:
            each.power_on()
        each.run("nft", "flush", "ruleset")
        each.run("sh", "-c", f"umount -q {MODELS}; rm -rf {MODELS}*")
        # What was cut off from us notices within its patience; in any other case all is gone already.
        each.run("timeout", "60", "sh", "-c", "while ss -Hltn | grep -qv ':22 '; do sleep 0.1; done")


# --- what comes over -------------------------------------------------------------------------------------------------


async def test_a_model_is_copied_whole_to_its_owner_and_seen_there(world):
    await world.pulled(ONE)
    (done,) = await world.spread()
    assert isinstance(done, Copied)
    assert (done.node, done.model, done.source) == (TWO, MODEL, ONE)
    assert world.files_of(TWO) == world.files_of(ONE)
    assert {owner for owner, _ in world.files_of(TWO).values()} == {OWNER}
    facts = await look_at(node(world.hosts, world.machine(TWO)), world.folder, reach(world.keys))
    assert facts.models == world.models(ONE)
    assert world.progress[-1] == Progress(TWO, MODEL, done.size_bytes, done.size_bytes)


async def test_what_is_there_already_is_not_copied_again(world):
    await world.pulled(ONE)
    await world.pulled(TWO)
    assert await world.spread("llama3.1:8b", "registry.ollama.ai/library/llama3.1:8b") == ()


async def test_a_copied_model_is_served_by_the_ollama_there(world):
    await world.pulled(ONE)
    await world.spread()
    async with serving(world.machine(TWO), MODELS) as instance:
        assert (await instance.tags()) == [MODEL]
        assert "simulated A100" in await instance.answer(MODEL)


async def test_one_pull_reaches_every_node_and_who_has_it_gives_it_on(world):
    nodes = ("gpu-1", "gpu-1b", "gpu-1c", "gpu-2", "gpu-2b", "gpu-2c")
    await world.pulled("gpu-1", size=MIB)
    await world.pulled("gpu-2c", "llama3.2:3b", size=MIB)
    done = await world.spread("llama3.1:8b", "llama3.2:3b", to=nodes, among=nodes)
    assert {type(each) for each in done} == {Copied}
    assert len(done) == 2 * len(nodes) - 2
    assert len({tuple(sorted(world.files_of(each).items())) for each in nodes}) == 1
    assert len({each.source for each in done}) > 2


# --- what goes wrong -------------------------------------------------------------------------------------------------


async def test_after_a_cut_cable_the_copy_goes_on_where_it_was(world):
    world.waits = IMPATIENT
    await world.pulled(ONE, size=4 * MIB)
    world.when_begun(world.machine(TWO).cut)
    (failed,) = await world.spread(mib_s=4)
    assert isinstance(failed, CopyFailed)
    assert failed.error == "gpu-2: take models: the host was silent for 3.05 s"
    world.machine(TWO).mend()
    assert world.models(TWO) == ()
    world.progress.clear()
    (done,) = await world.spread()
    assert isinstance(done, Copied)
    assert world.progress[0].done > 0
    assert world.files_of(TWO) == world.files_of(ONE)


async def test_a_source_that_loses_its_power_is_done_without(world):
    nodes = ("gpu-1", "gpu-2", "gpu-2b")
    await world.pulled("gpu-1", size=4 * MIB)
    await world.pulled("gpu-2b", size=4 * MIB)
    world.when_begun(world.machine(ONE).power_off)
    (done,) = await world.spread(among=nodes, mib_s=4)
    assert isinstance(done, Copied)
    assert done.source == "gpu-2b"
    assert world.files_of(TWO) == world.files_of("gpu-2b")


async def test_a_damaged_blob_is_refused_and_taken_from_elsewhere(world):
    await world.pulled("gpu-1")
    damaged = damage(world.blobs("gpu-1"))
    (failed,) = await world.spread()
    assert isinstance(failed, CopyFailed)
    assert failed.error == (
        f"gpu-2: llama3.1:8b from gpu-1: take models: {damaged} is damaged there: its content has another digest"
    )
    assert not any("manifest" in path or damaged in path for path in world.files_of(TWO))
    await world.pulled("gpu-2b")
    (done,) = await world.spread(among=("gpu-1", "gpu-2", "gpu-2b"))
    assert isinstance(done, Copied)
    assert done.source == "gpu-2b"


async def test_what_was_left_half_done_and_is_wrong_is_taken_anew(world):
    await world.pulled(ONE)
    weights = max(world.blobs(ONE).iterdir(), key=lambda each: each.stat().st_size)
    world.machine(TWO).run("install", "-d", "-o", OWNER, MODELS, f"{MODELS}/blobs")
    (world.blobs(TWO) / f"{weights.name}.partial-ollamactl").write_bytes(b"not what it should be")
    world.machine(TWO).run("chown", "-R", OWNER, MODELS)
    assert [type(each) for each in await world.spread()] == [Copied]
    assert world.files_of(TWO) == world.files_of(ONE)


async def test_without_room_nothing_is_begun(world):
    await world.pulled(ONE, size=2 * MIB)
    await world.pulled(ONE, "llama3.2:3b", size=2 * MIB)
    world.machine(TWO).run("sh", "-c", f"mkdir {MODELS} && mount -t tmpfs -o size=259m tmpfs {MODELS}")
    (failed,) = await world.spread("llama3.1:8b", "llama3.2:3b")
    assert isinstance(failed, CopyFailed)
    assert failed.models == ("llama3.1:8b", "llama3.2:3b")
    assert re.fullmatch(
        r"gpu-2: take models: no room in \S+: 4 MiB are wanted and 3 MiB free, besides 256 MiB that stay so; "
        r"remove models there or name another `models_dir`",
        failed.error,
    )
    assert world.files_of(TWO) == {}


async def test_a_disk_that_fills_up_meanwhile_keeps_nothing_half_done(world):
    await world.pulled(ONE, size=4 * MIB)
    machine = world.machine(TWO)
    machine.run("sh", "-c", f"mkdir {MODELS} && mount -t tmpfs -o size=264m tmpfs {MODELS}")
    world.when_begun(lambda: machine.run("sh", "-c", f"cat /dev/zero >{MODELS}/filler", check=False))
    (failed,) = await world.spread(mib_s=0.5)  # slower than any machine fills the disk
    assert isinstance(failed, CopyFailed)
    assert re.fullmatch(r"gpu-2: take models: \S+: No space left on device", failed.error)
    machine.run("rm", f"{MODELS}/filler")
    assert not any(".partial" in path or "manifests" in path for path in world.files_of(TWO))


async def test_a_copy_that_is_called_off_leaves_nothing_running_and_nothing_that_counts(world):
    await world.pulled(ONE, size=4 * MIB)
    under_way = asyncio.create_task(world.spread(mib_s=2))
    world.when_begun(under_way.cancel)
    with pytest.raises(asyncio.CancelledError):
        await under_way
    for machine in world.hosts.machines.values():
        machine.run("timeout", "60", "sh", "-c", "while pgrep -f 'sent = json.load[s]'; do sleep 0.05; done")
    assert world.models(TWO) == ()


async def test_what_nobody_has_is_told(world):
    (failed,) = await world.spread("qwen3:8b")
    assert failed == CopyFailed(TWO, ("qwen3:8b",), "gpu-2: no node has qwen3:8b: pull it on one of them")


async def test_hosts_that_do_not_reach_each_other_copy_through_here(world):
    await world.pulled(ONE)
    rule = f"add table inet t; add chain inet t in {{ type filter hook input priority 0; }}; \
        add rule inet t in ip saddr {world.machine(TWO).address} reject"
    world.machine(ONE).run("nft", rule)
    assert [type(each) for each in await world.spread()] == [Copied]
    assert world.files_of(TWO) == world.files_of(ONE)


async def test_a_host_that_is_known_by_an_address_not_its_own_gives_through_here(world, monkeypatch):
    await world.pulled(ONE)
    monkeypatch.setattr(world, "at", lambda name: replace(World.at(world, name), address="192.0.2.7"))
    assert [type(each) for each in await world.spread()] == [Copied]
    assert world.files_of(TWO) == world.files_of(ONE)


# --- who may read ----------------------------------------------------------------------------------------------------


async def test_a_stranger_on_the_network_reads_nothing(world):
    await world.pulled(ONE)
    await world.pulled(ONE, "llama3.2:3b")
    here, other = world.models(ONE)
    async with world.connect(ONE) as host:
        async with giving(host, world.at(ONE), mib_s=None, waits=world.waits) as giver:
            async with giver.offer(here) as offer, giver.offer(other) as another:
                blob = max(offer.blobs, key=lambda each: offer.blobs[each])
                assert offer.token not in repr(offer)
                assert await read(offer, blob, offer.token) == (200, blob[7:])
                for path, token in (
                    (blob, ""), (blob, "x" * 43), (blob, offer.token[:-1]), (blob, another.token), ("", offer.token),
                    ("../manifests/registry.ollama.ai/library/llama3.1/8b", offer.token), ("/etc/passwd", offer.token),
                ):  # fmt: skip
                    assert await read(offer, path, token) == (403, EMPTY), path
            assert await read(offer, blob, offer.token) == (403, EMPTY)  # a token is one transfer's
        commands = world.machine(ONE).run("ps", "-eo", "args")
        assert offer.token not in commands
        with pytest.raises(aiohttp.ClientConnectorError):
            await read(offer, blob, offer.token)


async def test_what_gives_models_has_only_their_owners_rights_and_ends_with_its_connection(world):
    await world.pulled(ONE)
    machine = world.machine(ONE)
    async with world.connect(ONE) as host, giving(host, world.at(ONE), mib_s=None, waits=world.waits) as giver:
        listening = machine.run("ss", "-Hltnp", f"sport = :{giver.port}")
        assert listening.split()[3] == f"{machine.address}:{giver.port}"
        pid = re.findall(r"pid=(\d+)", listening)[0]
        assert machine.run("ps", "-o", "user=", pid).strip() == OWNER
        await host.close()
        machine.run("timeout", "60", "sh", "-c", f"while [ -e /proc/{pid} ]; do sleep 0.1; done")


async def test_what_hears_nobody_any_more_ends_by_itself(world):
    await world.pulled(ONE)
    async with world.connect(ONE) as host, giving(host, world.at(ONE), mib_s=None, waits=IMPATIENT) as giver:
        world.machine(ONE).cut()
        gone = f"while ss -Hltn | grep -q ':{giver.port} '; do sleep 0.1; done"
        world.machine(ONE).run("timeout", "60", "sh", "-c", gone)


EMPTY = hashlib.sha256(b"").hexdigest()


async def read(offer: Offer, path: str, token: str) -> tuple[int, str]:
    """Status and digest of an answer; what it is asked for is not tidied up on the way."""
    url = URL(f"http://{offer.host}:{offer.port}/{path}", encoded=True)
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as reply:
        return reply.status, hashlib.sha256(await reply.read()).hexdigest()


def damage(blobs: Path) -> str:
    """Change one byte of the largest blob; its name."""
    weights = max(blobs.iterdir(), key=lambda each: each.stat().st_size)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return weights.name
