"""A host restricted to what is done with instances: all of that works there, and whoever has the key can do no more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.app.running_code import check_hosts, instance_on
from orchestrator.app.visits import BRINGS_NONE, visits
from orchestrator.cli.main import main
from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeName
from orchestrator.fleet.hostbase import BaseWanted, make_base, remove_base
from orchestrator.nodes.host_program import version
from orchestrator.nodes.hoststeps import Owner
from orchestrator.nodes.keeper_units import Unit
from orchestrator.nodes.onhost import policy
from orchestrator.nodes.probe import Asked
from orchestrator.nodes.program_file import program
from orchestrator.nodes.remote_probe import look_once
from orchestrator.nodes.restricting import PATHS
from orchestrator.nodes.sending import asked_there
from orchestrator.nodes.ssh import HOST_PROGRAM, SUDO, Ran, SshError, SshHost
from orchestrator.nodes.systemd import SystemdKeeper
from orchestrator.settings import load
from tests.hosts.bases import MODELS, PORTS, USER, changed, host_of
from tests.hosts.machines import STAND_IN, Machine, Network
from tests.hosts.reaching import known

GUESTS_RULE = "/etc/sudoers.d/restricted-tests"
NODE = NodeName("gpu-1")
A = "engine-a"
pytestmark = pytest.mark.usefixtures("bare")


class Operator:
    """Somebody with one host, and commands."""

    def __init__(self, net: Network, machine: Machine, folder: Path) -> None:
        self.config, self.paths = folder / "cluster.yaml", StatePaths(folder / "state")
        self.paths.root.mkdir(mode=0o700)
        known(self.paths.root, machine)
        node = {"name": NODE, "address": machine.address, "user": "ops", "key": str(net.key), "models_dir": MODELS}
        deploy = {"user": USER, "ports": list(PORTS)}
        self.config.write_text(yaml.safe_dump({"nodes": [node], "models": {"m": {}}, "deploy": deploy}))

    def __call__(self, *words: str, code: int = 0) -> str:
        options = ("--state", str(self.paths.root), "--config", str(self.config))
        done = CliRunner().invoke(main, [*words[:2], *options, *words[2:]])
        assert done.exit_code == code, done.output
        return done.output

    async def wanted(self) -> BaseWanted:
        """The base, as `deploy` would have it."""
        base = (await visits(load(self.config), self.paths, of=BRINGS_NONE)).wanted(NODE)
        ollama = await program(str(STAND_IN), None, self.paths.root / "programs")
        return replace(base, program=ollama, owner=Owner("prod", 1, "kaan@ctl-1"))


@pytest.fixture
def operator(hosts: Network, gpu_1: Machine, tmp_path: Path) -> Iterator[Operator]:
    gpu_1.run("sh", "-c", f"echo 'guest ALL=(ALL) NOPASSWD: ALL' >{GUESTS_RULE}")
    try:
        yield Operator(hosts, gpu_1, tmp_path)
    finally:
        gpu_1.run("sh", "-c", "systemctl stop 'ollama@*'; rm -f /etc/systemd/system/*.wants/ollama@*")
        gpu_1.run("rm", "-rf", *PATHS, str(Path(policy.PROGRAM).parent), GUESTS_RULE)


async def there(host: SshHost, main: str, **asked: Any) -> Ran:
    """What somebody does who stole the key: the one command, with any input."""
    given = asked_there(main=main, **asked)
    return await host.run((*SUDO, *HOST_PROGRAM), step="attack", given=given, check=False)


async def step(host: SshHost, do: str, **asked: Any) -> Ran:
    return await there(host, policy.BASE, is_dry=False, is_alone=True, steps=[{"do": do, **asked}])


@asynccontextmanager
async def kept(connect):
    keeper = SystemdKeeper(NODE, connect, user=USER)
    running = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_all_that_is_done_with_instances_works_on_a_restricted_host(hosts, gpu_1, tmp_path, operator):
    said = await asyncio.to_thread(operator, "nodes", "restrict", NODE, "--yes")
    assert all(f"{NODE}: {path}" in said for path in PATHS)
    base = await operator.wanted()
    connect = partial(host_of, hosts, gpu_1, tmp_path)
    async with connect() as host:
        assert (await host.run((*SUDO, "true"), step="sudo", check=False)).status != 0
        with pytest.raises(
            SshError, match=r"^gpu-1: ops may do as root what .* and no commands .*log in as somebody else"
        ):
            await host.run(("id",), step="exec", sudo=True)
        assert len((await look_once(host, Asked(NODE, MODELS, most=1))).accelerators) == 2
        assert changed(await make_base(host, base))["program"]
        assert not any(changed(await make_base(host, base)).values())
        env = {"OLLAMA_HOST": f"{gpu_1.address}:{PORTS[0]}", "OLLAMA_MODELS": MODELS, "OLLAMACTL_INSTANCE": "{}"}
        async with kept(connect) as keeper:
            ready = f"tcp:{gpu_1.address}:{PORTS[0]}"
            await keeper.start(Unit(A, ("ollama", "serve"), env=env, ready=ready, ready_timeout_s=60))
            (seen,) = await keeper.list()
            assert await keeper.marks() == {A: "{}"}
            assert [each async for each in keeper.logs(A, lines=5, follow=False)]
            runs = await instance_on(host, seen)
            assert (runs.runs, runs.is_old) == (runs.on_disk, False)
            await keeper.stop(A)
        await remove_base(host, base, with_models=True)
    left = gpu_1.run("sh", "-c", f"ls -d /opt/ollamactl /var/lib/ollamactl-host {MODELS} 2>/dev/null; true")
    assert left == ""
    await asyncio.to_thread(operator, "nodes", "restrict", NODE, "--undo", "--by", "guest")
    async with connect() as host:
        assert (await host.run(("id", "-u"), step="exec", sudo=True)).out == b"0\n"


async def test_whoever_has_the_key_of_a_restricted_host_gets_neither_root_nor_files_of_others(
    hosts, gpu_1, tmp_path, operator
):
    await asyncio.to_thread(operator, "nodes", "restrict", NODE, "--yes")
    base = await operator.wanted()
    async with host_of(hosts, gpu_1, tmp_path) as host:
        await make_base(host, base)
        # Another command line than the one, another user, an environment of one's own.
        for words in (("true",), ("python3", "-c", "1"), (*HOST_PROGRAM, "more"), ("PATH=/tmp", *HOST_PROGRAM)):
            ran = await host.run(("sudo", "-n", *words), step="attack", check=False)
            assert ran.status == 1, words
        assert (await host.run(("sudo", "-n", "-u", USER, *HOST_PROGRAM), step="attack", check=False)).status == 1
        # A library of one's own in an instance's environment: root runs `ExecStartPre=+` with it.
        env = {"LD_PRELOAD": "/tmp/mine.so"}
        start = {"id": 1, "verb": "start", "instance": "x", "text": 'LD_PRELOAD="/tmp/mine.so"\n', "environment": env}
        start |= {"port": None, "ready_s": 1, "user": USER}
        given = asked_there(main=policy.KEEPS, known={}) + json.dumps(start).encode() + b"\n"
        async with asyncio.timeout(60), host.started((*SUDO, *HOST_PROGRAM), step="attack", given=given) as process:
            while b'"id"' not in (told := await process.stdout.readline()):
                assert told, "it ended without a word on what was asked"
        assert b"environment: 'LD_PRELOAD' may not be set" in told
        assert gpu_1.run("ls", "/etc/ollamactl/instances") == ""
        # A unit of one's own.
        said = await step(host, "unit", text=base.unit.replace(f"User={USER}", "User=root"))
        assert (said.status, b"unit: text: not the one" in said.err) == (policy.REFUSED, True)

        # From here on with code that runs as the user of instances: links in the folder of models, and in its place.
        gpu_1.run("sh", "-c", f"mkdir {MODELS}/blobs /srv/base-test/of; umask 077; echo secret >/srv/base-test/secret")
        await gets_no_file_of_roots(host, gpu_1)
        gpu_1.run(
            "sh", "-c", f"mv {MODELS} {MODELS}.old; ln -s /srv/base-test/of {MODELS}; chown {USER} /srv/base-test"
        )
        said = await step(host, "folders", user=USER, models_dir=MODELS)
        assert b"models_dir /srv/base-test/models: /srv/base-test is not root's" in said.err
        assert gpu_1.run("stat", "-c", "%U", "/srv/base-test/of") == "root\n"


async def gets_no_file_of_roots(host: SshHost, machine: Machine) -> None:
    """What is given of a model that is a link to a file of root's."""
    secret = "sha256-" + "0" * 64
    manifest = json.dumps({"layers": [], "config": {"digest": secret.replace("-", ":"), "size": 7}})
    folder = f"{MODELS}/manifests/a/b/c"
    machine.run("sh", "-c", f"mkdir -p {folder}; ln -s /srv/base-test/secret {MODELS}/blobs/{secret}")
    machine.run("sh", "-c", f"printf %s '{manifest}' >{folder}/d; ln -s /root {MODELS}/manifests/of-root")
    look = await look_once(host, Asked(NODE, MODELS, most=1))
    (seen,) = look.models
    given = asked_there(main=policy.GIVING, models_dir=MODELS, address=machine.address, bytes_s=None, silence_s=30)
    offer = {"offer": "token", "parts": ["a", "b", "c", "d"], "digest": seen.digest}
    async with host.started((*SUDO, *HOST_PROGRAM), step="attack", given=given) as process:
        port = json.loads(await process.stdout.readline())["port"]
        process.stdin.write(json.dumps(offer).encode() + b"\n")
        assert "error" not in json.loads(await process.stdout.readline()), "it is offered"
        asked = ("curl", "--silent", "--max-time", "20", "--header", "Authorization: Bearer token")
        got = await host.run((*asked, f"http://{machine.address}:{port}/{secret}"), step="attack", check=False)
    assert (got.out, got.status != 0) == (b"", True)


async def test_a_host_with_a_program_of_another_version_says_so_before_anything_is_changed(
    hosts, gpu_1, tmp_path, operator
):
    await asyncio.to_thread(operator, "nodes", "restrict", NODE, "--yes")

    path = gpu_1.files / policy.PROGRAM.lstrip("/")
    path.write_bytes(path.read_bytes().replace(version().encode(), b"0" * 64))
    base = await operator.wanted()
    again = "run `ollamactl nodes restrict gpu-1` again"
    async with host_of(hosts, gpu_1, tmp_path) as host:
        with pytest.raises(SshError, match=f"^gpu-1: system: .* of another version .*{again}"):
            await make_base(host, base)
        with pytest.raises(SshError, match=again):
            await look_once(host, Asked(NODE, MODELS, most=1))
    settings_in_use.write(operator.paths, load(operator.config))
    with pytest.raises(HostError, match=again):
        await check_hosts(operator.paths)
    told = json.loads(await asyncio.to_thread(operator, "doctor", "--json", code=1))
    (found,) = (each for each in told if each["severity"] == "warning")
    assert (found["where"], found["mends"]) == (NODE, again)
    operator.config.write_text(operator.config.read_text().replace("  m: {}", "  llama3.2:3b: {}"))
    for command in ("plan", "deploy"):
        assert again in await asyncio.to_thread(operator, command, code=1)
    assert "no commands" in await asyncio.to_thread(operator, "nodes", "restrict", NODE, "--yes", code=1)
    said = await asyncio.to_thread(operator, "nodes", "restrict", NODE, "--yes", "--by", "guest")
    assert [each for each in PATHS if each in said] == [policy.PROGRAM]
    await check_hosts(operator.paths)
