"""`ollamactl plan` and `deploy` over two real hosts, as an operator calls them, from nothing to answers and back."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import yaml

from orchestrator.app import deployments
from orchestrator.app.paths import StatePaths
from orchestrator.nodes.host_keys import HostKeys, fingerprint
from orchestrator.nodes.keeper_client import KeeperClient
from tests.hosts.machines import STAND_IN, Machine, Network
from tests.hosts.reaching import known
from tests.nginx.playing import fronted, listens
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
SMALL, FULL, TINY = "llama3.2:3b", "llama3.1:8b", "qwen2.5:0.5b"
MODELS = "/var/lib/ollama/models"
LEFT_BEHIND = ("/opt/ollamactl", "/etc/ollamactl", "/var/lib/ollamactl-host", "/var/lib/ollama")
TIMEOUT_S = 180.0


# Known here by its name, which its own /etc/hosts gives to 127.0.1.1, as Debian writes it.
NAMED = "gpu-2"
# With a file of hosts of its own, and what is there otherwise.
WITH_HOSTS = ("unshare", "--mount", "sh", "-c", 'mount --bind "$1" /etc/hosts && shift && exec "$@"', "sh")


class Operator:
    """Somebody with a folder, a cluster.yaml in it, and hosts."""

    def __init__(self, net: Network, folder: Path) -> None:
        self.net, self.folder, self.state = net, folder, folder / "state"
        self.paths = StatePaths(self.state)
        self._running: list[subprocess.Popen[str]] = []
        self.state.mkdir(mode=0o700)
        known(self.state, *net.machines.values())
        named = net.machines[NAMED]
        self.keys.pin(NAMED, 22, asyncssh.import_public_key(named.host_key))
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{named.address} {NAMED}\n")
        _stand_in(folder)

    @property
    def keys(self) -> HostKeys:
        return HostKeys(self.paths.known_hosts)

    def node(self, machine: Machine) -> dict[str, str]:
        address = NAMED if machine.name == NAMED else machine.address
        return {"name": machine.name, "address": address, "user": "ops", "key": str(self.net.key), "models_dir": MODELS}

    def settings(self, models: dict[str, Any], **more: Any) -> None:
        """Write cluster.yaml."""
        document = {
            "nodes": [self.node(each) for each in self.net.machines.values()],
            "ssh": {"connect_s": 5},
            "models": models,
            "deploy": {"ollama": str(STAND_IN), "drain_s": 20, "serve_s": 120, **more.pop("deploy", {})},
            "listen": "127.0.0.1:0",
            **more,
        }
        (self.folder / "cluster.yaml").write_text(yaml.safe_dump(document))

    def start(self, command: str, *words: str) -> subprocess.Popen[str]:
        argv = [*WITH_HOSTS, str(self.folder / "hosts"), sys.executable, "-m", "orchestrator.cli", command]
        argv += (
            [*words[:1], "--state", str(self.state), *words[1:]]
            if command == "nodes"
            else ["--state", str(self.state), *words]
        )
        environment = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
        }
        process = subprocess.Popen(
            argv, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self._running.append(process)
        return process

    def __call__(self, *words: str, code: int = 0) -> str:
        process = self.start(*words)
        said, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == code, f"{words}: {process.returncode}\n{said}\n{self.log()}"
        return said

    def log(self) -> str:
        log = self.paths.logs / "controller.log"
        return log.read_text()[-3000:] if log.exists() else ""

    @property
    def endpoint(self) -> str:
        return str(json.loads((self.state / "lock").read_text().strip("\0 \n"))["endpoint"])

    def controller_pid(self) -> int:
        units = asyncio.run(KeeperClient(self.paths.keeper_socket).list())
        return next(each.pid for each in units if each.name == "controller" and each.pid is not None)

    def asks(self, model: str, endpoint: str = "") -> int:
        """The status of a question's answer, as a client gets it."""
        body = {"model": model, "messages": [{"role": "user", "content": "Why?"}], "options": {"num_predict": 8}}
        request = urllib.request.Request(
            f"http://{endpoint or self.endpoint}/api/chat", json.dumps(body).encode(), {"Cache-Control": "no-store"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                whole = answer.read()
                return answer.status if b'"done":true' in whole else 0
        except urllib.error.HTTPError as why:
            return why.code

    @contextmanager
    def load(self, model: str) -> Iterator[list[int]]:
        """Three clients that ask one question after the other; how each was answered."""
        answered: list[int] = []
        is_over = threading.Event()

        def ask() -> None:
            while not is_over.is_set():
                answered.append(self.asks(model))

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for each in clients:
            each.start()
        try:
            yield answered
        finally:
            is_over.set()
            for each in clients:
                each.join()

    def instances(self, model: str) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"http://{self.endpoint}/status.json", timeout=20) as answer:
            pools = json.load(answer)["pools"]
        return [each for pool in pools if pool["name"] == model for each in pool["instances"]]

    def until(self, holds: Callable[[], bool], what: str) -> None:
        wait_until(holds, lambda: f"{what}\n{self.log()}", TIMEOUT_S)

    def leave(self) -> None:
        """End what was started, and leave hosts as they were."""
        for each in self._running:
            if each.poll() is None:
                each.kill()
                each.wait()
        with suppress(AssertionError):
            self("down")
        for machine in self.net.machines.values():
            machine.mend()
            if machine.process is None:
                machine.power_on()
            _clear(machine)


def programs(operator: Operator) -> set[str]:
    """Which programs hosts run instances with."""
    hosts = operator.net.machines.values()
    return {each.run("readlink", "-f", "/opt/ollamactl/ollama/current").strip() for each in hosts}


def _clear(machine: Machine) -> None:
    machine.run("sh", "-c", "systemctl stop 'ollama@*.service'; systemctl reset-failed; true")
    machine.run("sh", "-c", "rm -f /etc/systemd/system/ollama@.service /etc/systemd/system/*.wants/ollama@*; true")
    machine.run("sh", "-c", "nft delete table inet ollamactl; rm -rf /etc/nftables.d/ollamactl*; true")
    machine.run("rm", "-rf", *LEFT_BEHIND)
    machine.run("systemctl", "daemon-reload")


def _stand_in(folder: Path) -> None:
    """An `ollama` for this machine, in a folder that is on the operator's PATH. Its models are no GGUF files that could
    be read for their size, and lie where nobody looks for any."""
    plays, program = folder / "plays.json", folder / "bin" / "ollama"
    plays.write_text(json.dumps({"speed": 300.0, "pull_bytes_s": 1e9}))
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={ROOT} OLLAMA_STAND_IN={plays} OLLAMA_MODELS={folder}/models\n"
        f'exec {sys.executable} -m orchestrator.nodes.simulator.as_ollama "$@"\n'
    )
    program.chmod(0o755)


@pytest.fixture(scope="module")
def place(host_network: Network) -> Iterator[Operator]:
    """One for all tests of this file, each of which says what is to be deployed: a base is made once."""
    with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
        for each in host_network.machines.values():
            each.stand_in(card="RTX 4090", speed=300.0, pull_bytes_s=1e9)
        made = Operator(host_network, Path(folder))
        try:
            yield made
        finally:
            made.leave()


@pytest.fixture
def operator(place: Operator, hosts: Network) -> Operator:
    return place


def test_hosts_are_planned_deployed_to_and_answer_and_a_second_deploy_changes_nothing(operator: Operator):
    gpu_1, gpu_2 = operator.net.machines.values()
    operator.settings({SMALL: {"replicas": 3, "hosts": 2}}, nodes=[operator.node(gpu_1)])
    operator.paths.known_hosts.write_text("".join(f"{each.address} {each.host_key}\n" for each in (gpu_1,)))
    adding = ("nodes", "add", NAMED, "--host", NAMED, "--user", "ops", "--key", str(operator.net.key))
    key = asyncssh.import_public_key(gpu_2.host_key)
    assert f"give it: --fingerprint {fingerprint(key)}" in operator(*adding, code=1)
    assert operator.keys.pinned(NAMED, 22) is None
    assert "was added to cluster.yaml" in operator(*adding, "--fingerprint", fingerprint(key))
    assert operator.keys.pinned(NAMED, 22) == key
    added = yaml.safe_load((operator.folder / "cluster.yaml").read_text())
    assert operator.node(gpu_2) == {**added["nodes"][1], "models_dir": MODELS}
    operator.settings(added["models"], nodes=[*added["nodes"][:1], operator.node(gpu_2)])

    planned = json.loads(operator("plan", "--json", code=2))
    assert [each["kind"] for each in planned["changes"]] == ["create"] * 3
    assert set(planned["base"]) == {"gpu-1", "gpu-2"}
    assert "say so with --yes" in operator("deploy", code=2)
    assert deployments.current(operator.paths) is None, "nobody agreed"

    said = operator("deploy", "--yes")
    assert "no cluster runs" in said
    assert f"gpu-2: {SMALL} copied from gpu-1" in said, "a model travels into the cluster once"
    assert f"{SMALL} answers on gpu-" in said
    assert operator.asks(SMALL) == 200
    assert {each["host"] for each in operator.instances(SMALL)} == {gpu_1.address, gpu_2.address}
    with fronted(operator.folder / "nginx", [operator.endpoint], server_name="localhost") as front:
        asyncio.run(listens(front))
        assert operator.asks(SMALL, f"localhost:{front.port}") == 200, "through nginx, too"
    for again in (operator("deploy", "--yes"), operator("plan")):
        assert "nothing to do: 3 as they are" in again
    current = deployments.current(operator.paths)
    assert current is not None
    assert current.is_good
    assert current.number == 2, "a stage and the whole; no second deployment was made"


def test_a_host_that_cannot_be_deployed_to_is_left_out_and_the_others_are_served(operator: Operator):
    operator.settings({SMALL: {"replicas": 2, "hosts": 2}})
    document = yaml.safe_load((operator.folder / "cluster.yaml").read_text())
    document["nodes"][1] |= {"user": "guest"}
    (operator.folder / "cluster.yaml").write_text(yaml.safe_dump(document))
    said = operator("deploy", "--yes", code=1)
    assert "left out: gpu-2: no sudo without a password for guest" in said
    assert operator.asks(SMALL) == 200
    document["nodes"][1] |= {"user": "ops", "models_dir": "/proc/models"}
    (operator.folder / "cluster.yaml").write_text(yaml.safe_dump(document))
    said = operator("deploy", "--yes", code=1)
    assert "✗ gpu-2: folders: " in said
    assert operator.asks(SMALL) == 200
    with deployments.deploying(operator.paths):
        assert f"process {os.getpid()}, is deploying from" in operator("deploy", "--yes", code=1)


def test_edited_models_are_rolled_out_under_load_without_a_failed_call_and_rolled_back(operator: Operator):
    operator.settings({SMALL: {"replicas": 2, "slots": 2}})
    operator("deploy", "--yes")
    before = programs(operator)
    newer = operator.folder / "ollama-newer"
    newer.write_bytes(STAND_IN.read_bytes() + b"\n")
    wanted = {SMALL: {"replicas": 2, "slots": 4, "kv_cache": "q8_0"}, FULL: {}}
    operator.settings(wanted, deploy={"ollama": newer.name})
    planned = json.loads(operator("plan", "--json", code=2))
    kinds = sorted(each["kind"] for each in planned["changes"])
    assert kinds in (["change", "change", "create"], ["change", "create", "move"])
    reasons = [each["reason"] for each in planned["changes"] if each["kind"] == "change"]
    assert all(each.startswith("slots 2 → 4; KV cache f16 → q8_0; program ") for each in reasons)
    with operator.load(SMALL) as answered:
        operator("deploy", "--yes")
    assert len(answered) > 20
    assert set(answered) == {200}
    assert operator.asks(FULL) == 200
    assert {each["slots"] for each in operator.instances(SMALL)} == {4}
    assert programs(operator).isdisjoint(before)

    with operator.load(SMALL) as answered:
        said = operator("rollback", "--yes")
    assert "1 to remove" in said
    assert set(answered) == {200}
    assert {each["slots"] for each in operator.instances(SMALL)} == {2}
    assert operator.asks(FULL) == 404
    assert programs(operator) == before, "hosts keep programs of before"


def test_an_interrupted_deploy_is_finished_by_the_next_one(operator: Operator):
    operator.settings({SMALL: {"replicas": 1}})
    operator("deploy", "--yes")
    operator.settings({SMALL: {"replicas": 4}})
    first = operator.start("deploy", "--yes")
    assert first.stdout is not None
    for line in first.stdout:
        if "4 instances" in line:
            break
    os.killpg(first.pid, signal.SIGINT)
    rest, _ = first.communicate(timeout=TIMEOUT_S)
    assert first.returncode == 130, rest
    assert "the next run" in rest
    os.kill(operator.controller_pid(), signal.SIGKILL)
    assert "serves: 4 instances" in operator("deploy", "--yes") + operator("deploy", "--yes")
    assert "nothing to do" in operator("plan")


def test_a_host_that_is_powered_off_on_the_way_leaves_the_rest_serving_and_is_back_by_itself(operator: Operator):
    operator.settings({SMALL: {"replicas": 2, "hosts": 2}}, deploy={"serve_s": 60})
    operator("deploy", "--yes")
    gpu_2 = operator.net.machines["gpu-2"]
    operator.settings({SMALL: {"replicas": 4, "hosts": 2}}, deploy={"serve_s": 60})
    deploying = operator.start("deploy", "--yes")
    assert deploying.stdout is not None
    said = ""
    for line in deploying.stdout:
        said += line
        if "4 instances" in line:
            break
    gpu_2.power_off()
    said += deploying.communicate(timeout=TIMEOUT_S)[0]
    assert deploying.returncode == 1, said
    assert "they come back with their host: gpu-2-" in said
    assert operator.asks(SMALL) == 200
    told = operator("plan", code=0)
    assert "gpu-2 is left as it is, nothing is moved away from it" in told
    gpu_2.power_on()
    gpu_2.wait_until_up()
    operator.until(lambda: [each["state"] for each in operator.instances(SMALL)] == ["serving"] * 4, "all four")
    operator("deploy", "--yes")
    assert "nothing to do: 4 as they are" in operator("plan")


def test_single_instances_are_drained_started_anew_and_looked_into_and_all_is_destroyed(operator: Operator):
    operator.settings({SMALL: {"replicas": 2, "hosts": 2}})
    operator("deploy", "--yes")
    one, other = (each["id"] for each in operator.instances(SMALL))
    operator("drain", other)
    states = {each["id"]: each["state"] for each in operator.instances(SMALL)}
    assert states == {one: "serving", other: "draining"}
    assert operator.asks(SMALL) == 200
    operator("drain", other, "--undo")
    assert "serves" in operator("restart", one)
    assert "neither an instance nor a node" in operator("drain", "gpu-7", code=1)
    assert operator("logs", one, "-n", "5").strip()
    assert operator("exec", "gpu-1", "--", "echo", "$HOME; ls").strip() == "$HOME; ls"
    operator("exec", "gpu-1", "--", "sh", "-c", "exit 7", code=7)
    assert operator("exec", "--sudo", "gpu-2", "--", "id", "-u").strip() == "0"
    happened = [json.loads(line)["kind"] for line in operator("events", "--json").splitlines()]
    assert "deployment-finished" in happened
    assert {"drained", "serving"} <= set(happened)

    operator("destroy", "--yes", "--models")
    assert operator.instances(SMALL) == []
    for machine in operator.net.machines.values():
        left = machine.run("sh", "-c", f"ls -d {' '.join(LEFT_BEHIND[:3])} 2>/dev/null; true")
        assert left.strip() == ""
        assert "ollama@" not in machine.run("systemctl", "list-units", "--all", "--plain", "--no-legend")


def test_hosts_are_taken_over_by_command_alone_and_who_had_them_is_refused_then(operator: Operator):
    with tempfile.TemporaryDirectory(prefix="deploy-other-") as folder:
        other = Operator(operator.net, Path(folder))
        try:
            for each in (operator, other):
                each.settings({SMALL: {"replicas": 2, "hosts": 2}})
            operator("deploy", "--yes")
            is_refused(other, "deploy", "--yes")
            assert deployments.current(other.paths) is None
            assert operator.asks(SMALL) == 200

            other("deploy", "--yes", "--take-over")
            assert other.asks(SMALL) == 200
            is_refused(operator, "deploy", "--yes")
            is_refused(operator, "plan")
            assert {each["state"] for each in other.instances(SMALL)} == {"serving"}
        finally:
            other.leave()


def is_refused(operator: Operator, *words: str) -> None:
    """Of each host one line says whose it is, and since when."""
    said = operator(*words, code=1)
    for name in operator.net.machines:
        (line,) = (each for each in said.splitlines() if each.startswith(f"{name}: owner: the host is "))
        assert getpass.getuser() in line
        assert line.endswith("`--take-over` takes it")
