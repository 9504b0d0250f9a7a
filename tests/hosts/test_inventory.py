"""What is seen of hosts over SSH, while it changes, and what is left behind there."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, asynccontextmanager

import pytest

from orchestrator.core.model import ModelOnDisk, NodeName, OllamaServer
from orchestrator.fleet.inventory import look_at, look_at_all
from orchestrator.fleet.lookout import Lookout
from orchestrator.nodes.probe import Asked
from orchestrator.nodes.remote_probe import look_once, looks
from orchestrator.nodes.ssh import SshError, connected
from tests.hosts.conftest import A100_IN_SLICES, TWO_4090
from tests.hosts.reaching import MODELS, address, known, node, reach
from tests.waiting import WITHIN_S

MIB = 2**20


async def test_both_hosts_are_seen_with_their_cards_and_their_driver(hosts, gpu_1, gpu_2, tmp_path):
    keys = known(tmp_path, gpu_1, gpu_2)
    one, two = await look_at_all([node(hosts, gpu_1), node(hosts, gpu_2)], tmp_path, reach(keys))
    assert one.facts is not None
    assert two.facts is not None
    assert (one.facts.node, one.facts.hostname) == ("gpu-1", "gpu-1")
    assert [(each.uuid, each.name, each.vram_free_bytes) for each in one.facts.accelerators] == [
        ("GPU-4090-a", "NVIDIA GeForce RTX 4090", (24564 - 364) * MIB),
        ("GPU-4090-b", "NVIDIA GeForce RTX 4090", (24564 - 364) * MIB),
    ]
    assert [(each.uuid, each.parent_uuid) for each in two.facts.accelerators] == [
        ("MIG-3g-a", "GPU-a100"),
        ("MIG-3g-b", "GPU-a100"),
    ]
    assert (one.facts.driver_version, one.facts.cuda_version, one.facts.problems) == ("550.54.15", "12.4", ())
    assert one.facts.disk_free_bytes > 0
    assert one.facts.ram_free_bytes > 0


async def test_processes_servers_and_models_that_are_there_are_seen(hosts, gpu_1, tmp_path):
    manifest = json.dumps(
        {"layers": [{"digest": "sha256:aa", "size": 5}], "config": {"digest": "sha256:bb", "size": 2}}
    )
    record = f"{MODELS}/manifests/registry.ollama.ai/library/llama3.2/3b"
    for path, content in {
        record: manifest,
        f"{MODELS}/blobs/sha256-aa": "12345",
        f"{MODELS}/blobs/sha256-bb": "{}",
    }.items():
        (gpu_1.files / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (gpu_1.files / path[1:]).write_text(content)
    server = gpu_1.files / "usr/local/bin/ollama"
    server.write_text(OLLAMA)
    server.chmod(0o755)
    run = ["systemd-run", "--unit=foreign", "--uid=guest", f"--setenv=OLLAMA_MODELS={MODELS}", "-p", "Type=notify"]
    gpu_1.run(*run, "/usr/local/bin/ollama", "serve")
    try:
        pid = int(gpu_1.run("systemctl", "show", "--value", "-p", "MainPID", "foreign"))
        gpu_1.play(f"{TWO_4090}process on=GPU-4090-a pid={pid} used=900 as=compute\n")
        facts = await look_at(node(hosts, gpu_1), tmp_path, reach(known(tmp_path, gpu_1)))
    finally:
        gpu_1.run("systemctl", "stop", "foreign")
        gpu_1.run("rm", "-rf", MODELS, "/usr/local/bin/ollama")
    assert facts.ollamas == (OllamaServer(pid, 11999, "guest", MODELS, "foreign.service", is_ours=False),)
    (holder,) = facts.accelerators[0].processes
    assert (holder.pid, holder.vram_bytes, holder.user) == (pid, 900 * MIB, "guest")
    (model,) = facts.models
    assert (model.name, model.size_bytes, len(model.digest)) == ("llama3.2:3b", 7, 64)
    assert isinstance(model, ModelOnDisk)


# Named as Ollama's process is, listening as it does; it says when it listens.
OLLAMA = """#!/usr/bin/python3
import ctypes, os, socket, signal, sys
listening = socket.create_server(("127.0.0.1", 11999))
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_systemd:
    to_systemd.connect(os.environ["NOTIFY_SOCKET"])
    to_systemd.send(b"READY=1")
signal.pause()
"""


@asynccontextmanager
async def watched(hosts, keys, *machines):
    """A lookout, and a way to wait until what it sees is so."""
    news = asyncio.Event()
    lookout = Lookout([node(hosts, each) for each in machines], reach(keys), lambda sight: news.set())

    async def until(seen) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not seen(lookout.sights):
                news.clear()
                await news.wait()

    task = asyncio.create_task(lookout.run())
    try:
        yield until
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def has(name, holds):
    """A condition on one host's facts."""
    return lambda sights: (sight := sights.get(name)) is not None and sight.facts is not None and holds(sight.facts)


async def test_a_foreign_process_and_a_lost_card_are_seen_while_they_happen(hosts, gpu_1, gpu_2, tmp_path):
    async with watched(hosts, known(tmp_path, gpu_1, gpu_2), gpu_1, gpu_2) as until:
        await until(has("gpu-1", lambda facts: len(facts.accelerators) == 2))
        gpu_1.play(
            f"{TWO_4090}process on=GPU-4090-b pid=1 used=9000 as=compute\n".replace("used=0 util=0", "used=9000 util=0")
        )
        await until(has("gpu-1", lambda facts: facts.accelerators[1].vram_used_bytes == 9000 * MIB))
        gpu_1.play(f"{TWO_4090}fault gpu=1 answer=15\n")
        await until(has("gpu-1", lambda facts: len(facts.accelerators) == 1 and "off the bus" in facts.problems[0]))
        gpu_2.play(A100_IN_SLICES.replace("mig uuid=MIG-3g-b", "# "))
        await until(has("gpu-2", lambda facts: len(facts.accelerators) == 1))
        gpu_1.play(TWO_4090)
        await until(has("gpu-1", lambda facts: len(facts.accelerators) == 2 and not facts.problems))


async def test_a_driver_that_hangs_costs_the_gpus_and_comes_back(hosts, gpu_1, tmp_path, monkeypatch):
    async with connected(address(hosts, gpu_1), known(tmp_path, gpu_1)) as host:
        asked = Asked(NodeName("gpu-1"), MODELS, interval_s=0.1, nvml_wait_s=2.0)
        async with aclosing(looks(host, asked)) as seen:
            assert await first(seen, lambda facts: len(facts.accelerators) == 2)  # on a busy host not the first look
            gpu_1.play(f"{TWO_4090}fault call=nvmlDeviceGetMemoryInfo_v2 answer=hang\n")
            assert await first(seen, lambda facts: "did not answer within 2 s" in "".join(facts.problems))
            gpu_1.play(TWO_4090)
            assert await first(seen, lambda facts: len(facts.accelerators) == 2)


async def first(seen, holds):
    async for facts in seen:
        if holds(facts):
            return facts
    return None


async def test_a_host_without_power_is_told_and_seen_again_when_it_is_back(hosts, gpu_1, gpu_2, tmp_path):
    async with watched(hosts, known(tmp_path, gpu_1, gpu_2), gpu_1, gpu_2) as until:
        await until(has("gpu-2", lambda facts: True))
        gpu_2.power_off()
        await until(lambda sights: sights["gpu-2"].facts is None and sights["gpu-2"].error.startswith("gpu-2: "))
        await until(has("gpu-1", lambda facts: len(facts.accelerators) == 2))
        await asyncio.to_thread(gpu_2.power_on)
        await until(has("gpu-2", lambda facts: len(facts.accelerators) == 2))


async def test_the_probe_ends_with_its_connection_and_leaves_nothing(hosts, gpu_1, tmp_path):
    asked = Asked(NodeName("gpu-1"), MODELS, interval_s=0.1)
    async with (
        connected(address(hosts, gpu_1), known(tmp_path, gpu_1)) as host,
        aclosing(looks(host, asked)) as seen,
    ):
        await anext(seen)
        running = gpu_1.run("pgrep", "-f", "sent = json.loads").split()
    assert len(running) >= 2  # the probe and its reader of GPUs, and sudo
    gpu_1.run("timeout", "60", "sh", "-c", "while pgrep -f 'sent = json.load[s]'; do sleep 0.05; done")
    assert gpu_1.run("find", "/tmp", "/home/ops", "/root", "-newer", "/etc/hosts", "-name", "*onhost*") == ""


async def test_without_python_the_host_is_told_so(hosts, gpu_1, tmp_path):
    python = gpu_1.files / "usr/bin/python3"
    python.rename(python.with_name("python3.away"))
    try:
        with pytest.raises(SshError, match=r"^gpu-1: no python3 there: install it"):
            await look_at(node(hosts, gpu_1), tmp_path, reach(known(tmp_path, gpu_1)))
    finally:
        python.with_name("python3.away").rename(python)


async def test_without_sudo_the_look_is_the_users_own(hosts, gpu_1, tmp_path):
    async with connected(address(hosts, gpu_1, user="guest"), known(tmp_path, gpu_1)) as host:
        facts = await look_once(host, Asked(NodeName("gpu-1"), MODELS, most=1))
    assert len(facts.accelerators) == 2


async def test_what_one_host_suffers_touches_no_other(hosts, gpu_1, gpu_2, tmp_path):
    wrong = node(hosts, gpu_1, key=hosts.strange_key)
    bad, good = await look_at_all([wrong, node(hosts, gpu_2)], tmp_path, reach(known(tmp_path, gpu_1, gpu_2)))
    assert bad.facts is None
    assert "does not accept key" in bad.error
    assert good.facts is not None
