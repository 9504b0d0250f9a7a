"""Two hosts that nobody has touched, and the three runs of the playbook that all tests of this folder look at."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from flit_core import wheel

from tests.ansible.playing import PROGRAMS, ROOT, Control, Ran
from tests.hosts.conftest import A100_IN_SLICES, TWO_4090
from tests.hosts.machines import Machine, network, why_not
from tests.hosts.reaching import known
from tests.nodes.conftest import nvml_libraries as nvml_libraries

PASSWORD = "correct-horse-battery-staple"
MASTER = "ollamactl"
PROGRAM = ROOT / "tests" / "hosts" / "stand_in"
MODELS = "/var/lib/ollama/models"
SYSTEM_PYTHON = "/usr/bin/python3"
NEEDED = {
    "ansible-playbook": "the extra `test` of pyproject.toml",
    "redis-server": "redis-server",
    "redis-sentinel": "redis-sentinel",
    "nginx": "nginx-light",
    "nft": "nftables",
    "promtool": "prometheus",
}


@dataclass(slots=True)
class World:
    """A node, a host of everything else, and who runs Ansible for them."""

    node: Machine
    rest: Machine
    key: Path
    control: Control


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory, nvml_libraries: Path) -> Iterator[World]:
    path = f"{PROGRAMS}:/usr/sbin:/usr/bin:/sbin:/bin"
    lacking = [package for program, package in NEEDED.items() if shutil.which(program, path=path) is None]
    said = subprocess.run([SYSTEM_PYTHON, "--version"], capture_output=True, text=True, check=False).stdout
    if f" {sys.version_info.major}.{sys.version_info.minor}." not in said:
        lacking.append(f"a {SYSTEM_PYTHON} of this Python's version, as packages of one do not run by another")
    if why := why_not() or (lacking and f"needed is {', '.join(lacking)}"):
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("ansible")
    library = nvml_libraries / "today" / "libnvidia-ml.so.1"
    with network(tmp_path_factory.mktemp("fresh")) as net:
        node, rest = net.add("gpu-1", library, TWO_4090), net.add("front-1", library, A100_IN_SLICES)
        for each in (node, rest):
            each.wait_until_up()
        _persistence(node)
        known(folder, node, rest)
        control = Control(folder)
        _settings(folder, node, rest, net.key)
        _inventory(folder, node, rest, net.key)
        try:
            yield World(node, rest, net.key, control)
        finally:
            control.hang_up()


@pytest.fixture(scope="package")
def checked(world: World) -> tuple[Ran, str]:
    """A run in check mode before anything else, and what it left on the node."""
    ran = world.control.play("--check")
    places = ("/opt/ollamactl", "/etc/ollamactl", "/var/lib/ollamactl-host", "/opt/ollama-orchestrator")
    left = world.node.run("find", *places, check=False) + world.rest.run("find", *places, check=False)
    return ran, left


@pytest.fixture(scope="package")
def applied(world: World, checked: object) -> Ran:
    """The first run."""
    return world.control.play()


@pytest.fixture(scope="package")
def again(world: World, applied: Ran) -> Ran:
    """The second run; between them Redis' master has moved, as it may at any time."""
    assert set(applied.failed.values()) == {0}, applied.text[-3000:]
    _fail_over(world)
    return world.control.play()


# --- how the world is made --------------------------------------------------------------------------------------------


def _settings(folder: Path, node: Machine, rest: Machine, key: Path) -> None:
    (folder / "cluster.yaml").touch(mode=0o600)
    (folder / "cluster.yaml").write_text(
        f"""\
listen: "{rest.address}:11434"
nodes: [{{name: gpu-1, address: {node.address}, user: ops, key: {key}, models_dir: {MODELS}}}]
models: {{"llama3.2:3b": }}
keys: [{{name: operator, secret: "env:OPERATOR_KEY", admin: true}}]
redis: "sentinel://:{PASSWORD}@{node.address},{rest.address}/{MASTER}"
nginx: {{gateways: ["{rest.address}:11434"], server_name: ollama.test}}
deploy: {{ollama: {PROGRAM}}}
gateway: {{workers: 1}}
"""
    )


def _inventory(folder: Path, node: Machine, rest: Machine, key: Path) -> None:
    """What cluster.yaml does not know: how one logs in to other hosts, groups of its own, secrets."""
    package = wheel.make_wheel_in(ROOT / "pyproject.toml", folder).file
    login = {"ansible_user": "ops", "ansible_ssh_private_key_file": str(key)}
    login["ansible_ssh_common_args"] = f"-o UserKnownHostsFile={folder / 'known_hosts'}"
    given = {
        "redis_password": PASSWORD,
        "gateway_package": str(package),
        "gateway_requirements": str(folder / "requirements.txt"),
        "gateway_wheels": str(_packages(folder)),
        "gateway_environment": {"OPERATOR_KEY": PASSWORD},
        "monitoring_key": PASSWORD,
        "monitoring_interval_s": 1,
        "monitoring_exporters": [{"job": "nvidia", "group": "nodes", "port": 9400}],
        "base_clock": False,
    }
    others = {rest.address: login}
    hosts = {"nginx": {"hosts": others}, "monitoring": {"hosts": others}, "all": {"vars": given}}
    (folder / "hosts.yml").write_text(json.dumps(hosts))


def _packages(folder: Path) -> Path:
    """A folder of wheels with one in it, which leads to packages that the hosts have; and requirements that name it."""
    wheels = folder / "wheels"
    wheels.mkdir()
    path, info = wheels / "on_this_host-1-py3-none-any.whl", "on_this_host-1.dist-info"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("on_this_host.pth", "/opt/stand-in/packages\n")
        # redis-py asks for it before Python 3.11.3, and packages of a later one lack it.
        packed.writestr("async_timeout.py", "from asyncio import timeout as timeout\n")
        packed.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: on-this-host\nVersion: 1\n")
        packed.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        names = ("on_this_host.pth", "async_timeout.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD")
        packed.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "requirements.txt").write_text(f"on-this-host==1 --hash=sha256:{digest}\n")
    return wheels


def _persistence(machine: Machine) -> None:
    """A service as NVIDIA's packages bring it; it only has to be one."""
    unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
    (machine.files / "lib/systemd/system/nvidia-persistenced.service").write_text(unit)
    machine.run("systemctl", "daemon-reload")


def _fail_over(world: World) -> None:
    sentinel = ("redis-cli", "-p", "26379", "sentinel")
    knows = f"{shlex.join(sentinel)} replicas {MASTER} | grep -q {world.rest.address}"
    world.node.run("timeout", "30", "sh", "-c", f"until {knows}; do sleep 0.1; done")
    world.node.run(*sentinel, "failover", MASTER)
    role = f"redis-cli -a {PASSWORD} --no-auth-warning role"
    for machine, wanted in ((world.rest, "master"), (world.node, "slave")):
        machine.run("timeout", "45", "sh", "-c", f"until {role} | grep -q {wanted}; do sleep 0.1; done")
