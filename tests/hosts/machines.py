"""Hosts for tests: a booted systemd, sshd and sudo each, in a network namespace and a control group of its own.

A host's file system is this machine's, seen through an overlay whose changes lie in memory: nothing is built or
downloaded, a boot takes about a second. Its services are off but sshd, its python3 is the system's, and its driver is
the played NVML. Hosts reach each other and this machine over a bridge; no route leads further.

What is put up is registered before it is made, and taken down in reverse order whatever happened in between.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.waiting import WITHIN_S

CGROUPS = Path("/sys/fs/cgroup")
LIBRARY = "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"
NVML_SCRIPT = "etc/nvml-stub.conf"
USERS = {"ops": True, "guest": False}  # who may log in, and whether with sudo
BOOT_S = WITHIN_S
_networks = itertools.count()
# An `ollama` that a host can run wherever it is put, and what it needs to: this interpreter and these packages, where
# any user may read them and no unit hides them, as it may hide homes.
STAND_IN = Path(__file__).parent / "stand_in"
BEHIND_STAND_IN = {
    "/opt/stand-in/python": sys.base_prefix,
    "/opt/stand-in/packages": sysconfig.get_path("purelib"),
    "/opt/stand-in/code": str(STAND_IN.parents[2]),
}

NEEDED = {
    "systemd-nspawn": "systemd-container",
    "sshd": "openssh-server",
    "sudo": "sudo",
    "ip": "iproute2",
    "ssh-keygen": "openssh-client",
    "useradd": "passwd",
    "mount": "mount",
}


def why_not() -> str | None:
    """What keeps this machine from booting hosts, in words; None where nothing does."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts need Linux and root, for namespaces and mounts"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if missing := [package for program, package in NEEDED.items() if shutil.which(program, path=path) is None]:
        return f"hosts need the packages {', '.join(missing)}; tests/system_packages.sh installs them"
    if not Path("/lib/systemd/systemd").exists() or not Path("/usr/bin/python3").exists():
        return "hosts are this machine's own system, which has no systemd or no /usr/bin/python3"
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, text=True, check=False)
    return f"this machine allows no namespaces: {tried.stderr.strip()}" if tried.returncode else None


@dataclass(slots=True)
class Machine:
    """One host. `process` is systemd-nspawn's, None while it is powered off."""

    name: str
    address: str
    folder: Path
    namespace: str
    link: str
    process: subprocess.Popen[bytes] | None = None
    groups: list[Path] = field(default_factory=list)

    @property
    def files(self) -> Path:
        """Its file system, as seen from here."""
        return self.folder / "root"

    @property
    def host_key(self) -> str:
        """Its ed25519 host key, as known_hosts has it."""
        return " ".join((self.files / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])

    @property
    def cards(self) -> Path:
        """What its NVML plays; in place, as the stub reads it at each call."""
        return self.files / NVML_SCRIPT

    @property
    def init(self) -> int:
        """The pid of its systemd, as seen from here."""
        assert self.process is not None, f"{self.name} is off"
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def stand_in(self, **behaviour: object) -> None:
        """How its `ollama` plays from its next start on: the keys of `simulator.as_ollama.Behaviour`."""
        (self.files / "etc/ollama-stand-in.json").write_text(json.dumps(behaviour))

    def play(self, script: str) -> None:
        """Have other cards from the next call on."""
        fresh = self.cards.with_name("nvml-stub.next")
        fresh.write_text(script)
        fresh.rename(self.cards)

    def run(self, *command: str, check: bool = True) -> str:
        """What a command prints that root runs in the host, without SSH."""
        inside = ["nsenter", "--target", str(self.init), "--all", "--", "env", "-i", "PATH=/usr/sbin:/usr/bin"]
        done = subprocess.run([*inside, *command], capture_output=True, text=True, check=False, timeout=WITHIN_S)
        assert done.returncode == 0 or not check, f"{self.name}: {shlex.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def cut(self) -> None:
        """Take the cable out."""
        _command("ip", "link", "set", self.link, "down")

    def mend(self) -> None:
        _command("ip", "link", "set", self.link, "up")

    def power_off(self) -> None:
        """As if the power failed: nothing in it ends in order."""
        with suppress(ProcessLookupError, IndexError):
            os.kill(self.init, signal.SIGKILL)
        self._gone()

    def power_on(self) -> None:
        """Boot it, and return when its sshd answers."""
        self.boot()
        self.wait_until_up()

    def boot(self) -> None:
        log = (self.folder / "boot.log").open("ab")
        nspawn = ["systemd-nspawn", "--quiet", f"--directory={self.files}", f"--machine={self.namespace}", "--boot"]
        nspawn += ["--register=no", "--keep-unit", "--link-journal=no", "--console=pipe", "--capability=all"]
        nspawn.append(f"--network-namespace-path=/run/netns/{self.namespace}")
        nspawn += [f"--bind-ro={there}:{here}" for here, there in BEHIND_STAND_IN.items()]
        # Each in a control group of its own, or two hosts share one payload. The shell moves itself there first.
        join = "".join(f"echo $$ >{shlex.quote(str(each / 'cgroup.procs'))}; " for each in self.groups)
        with log:
            self.process = subprocess.Popen(
                ["sh", "-c", f"{join}exec {shlex.join(nspawn)}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1"},
                start_new_session=True,  # Ctrl-C is for pytest, which then ends this in order
            )

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + BOOT_S
        while True:
            with suppress(OSError), socket.create_connection((self.address, 22), timeout=1) as to_sshd:
                if to_sshd.recv(4) == b"SSH-":
                    return
            assert self.process is not None
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not boot: {(self.folder / 'boot.log').read_text()[-2000:]}")
            self._pause()

    def shut_down(self) -> None:
        """Nothing of it runs when this returns."""
        if self.process is None:
            return
        # In memory and thrown away: there is nothing that an orderly end would save.
        with suppress(ProcessLookupError, IndexError, FileNotFoundError):
            os.kill(self.init, signal.SIGKILL)
        try:
            self._gone()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self._gone()

    def _gone(self) -> None:
        assert self.process is not None
        self.process.wait(timeout=20)
        self.process = None

    @staticmethod
    def _pause() -> None:
        time.sleep(0.02)  # between two looks at a condition: sshd has no event that one could wait for


@dataclass(slots=True)
class Network:
    """The hosts of one test run, and the key that opens them."""

    folder: Path
    tag: str
    subnet: str
    stack: ExitStack
    machines: dict[str, Machine] = field(default_factory=dict)

    @property
    def key(self) -> Path:
        return self.folder / "id"

    @property
    def strange_key(self) -> Path:
        """A key that no host knows."""
        return self.folder / "strange"

    def add(self, name: str, library: Path, script: str) -> Machine:
        """A host that is being booted; `wait_until_up` says when it is."""
        number = len(self.machines) + 1
        machine = Machine(
            name, f"{self.subnet}.{number + 1}", self.folder / name, f"{self.tag}h{number}", f"v{self.tag}h{number}"
        )
        self.machines[name] = machine
        _file_system(machine, self.stack)
        _furnish(machine, library, script, (self.folder / "id.pub").read_text())
        _cable(machine, self)
        _groups(machine, self.stack)
        self.stack.callback(machine.shut_down)
        machine.boot()
        return machine


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A bridge without a way out, and keys. All hosts that are added to it are gone at its end."""
    tag = f"olt{os.getpid():x}n{next(_networks)}"  # with what is put before and after it 15 letters, a link's most
    with ExitStack() as stack:
        made = Network(folder, tag, _free_subnet(), stack)
        for name in ("id", "strange"):
            _command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / name))
        stack.callback(_quietly, "ip", "link", "del", f"b{tag}")
        _command("ip", "link", "add", f"b{tag}", "type", "bridge")
        _command("ip", "addr", "add", f"{made.subnet}.1/24", "dev", f"b{tag}")
        _command("ip", "link", "set", f"b{tag}", "up")
        yield made


def _free_subnet() -> str:
    """Addresses that no other run on this machine uses."""
    taken = _command("ip", "-4", "-o", "addr")
    start = os.getpid() % 200
    return next(net for each in range(200) if f"{(net := f'10.213.{(start + each) % 200}')}." not in taken)


def _file_system(machine: Machine, stack: ExitStack) -> None:
    """This machine's files, with what the host changes of them in memory."""
    machine.files.mkdir(parents=True)
    memory = machine.folder / "memory"
    memory.mkdir()
    _mount(stack, memory, "-t", "tmpfs", "-o", "mode=755", "tmpfs")
    for each in ("upper", "work"):
        (memory / each).mkdir()
    layers = f"lowerdir=/,upperdir={memory}/upper,workdir={memory}/work"
    _mount(stack, machine.files, "-t", "overlay", "-o", layers, "overlay")


def _mount(stack: ExitStack, at: Path, *what: str) -> None:
    _command("mount", *what, str(at))
    stack.callback(_command, "umount", str(at))


def _furnish(machine: Machine, library: Path, script: str, public_key: str) -> None:
    root = machine.files
    for each in [*root.glob("etc/rc?.d"), root / "etc/systemd/system", *root.glob("etc/cron*")]:
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    wanted = root / "etc/systemd/system/multi-user.target.wants"
    wanted.mkdir(parents=True)
    (wanted / "ssh.service").symlink_to("/lib/systemd/system/ssh.service")
    (root / "etc/systemd/system/default.target").symlink_to("/lib/systemd/system/multi-user.target")
    for name, text in {"hostname": machine.name, "machine-id": "", "fstab": "", "environment": ""}.items():
        (root / "etc" / name).write_text(f"{text}\n" if text else "")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {machine.name}\n")
    for key in root.glob("etc/ssh/ssh_host_*"):
        key.unlink()
    (root / "opt/stand-in").mkdir(parents=True)
    running = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (root / "opt/stand-in/interpreter").symlink_to(f"/opt/stand-in/python/bin/{running}")
    key = root / "etc/ssh/ssh_host_ed25519_key"  # the only one: making one of RSA takes seconds
    _command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key))
    shutil.copy(library, root / LIBRARY)
    machine.cards.write_text(script)
    sudoers = root / "etc/sudoers.d/tests"
    for user, may_sudo in USERS.items():
        _command("useradd", "--root", str(root), "--create-home", "--shell", "/bin/bash", user)
        if may_sudo:
            sudoers.write_text(f"{user} ALL=(ALL) NOPASSWD: ALL\n")
        _command("chroot", str(root), "install", "-d", "-m", "700", "-o", user, "-g", user, f"/home/{user}/.ssh")
        keys = root / f"home/{user}/.ssh/authorized_keys"
        keys.write_text(public_key)
        _command("chroot", str(root), "chown", f"{user}:{user}", f"/home/{user}/.ssh/authorized_keys")


def _cable(machine: Machine, net: Network) -> None:
    space, link = machine.namespace, machine.link
    net.stack.callback(_quietly, "ip", "netns", "del", space)
    _command("ip", "netns", "add", space)
    net.stack.callback(_quietly, "ip", "link", "del", link)
    _command("ip", "link", "add", link, "type", "veth", "peer", "name", "host0", "netns", space)
    _command("ip", "link", "set", link, "master", f"b{net.tag}", "up")
    _command("ip", "-n", space, "addr", "add", f"{machine.address}/24", "dev", "host0")
    for each in ("host0", "lo"):
        _command("ip", "-n", space, "link", "set", each, "up")


def _groups(machine: Machine, stack: ExitStack) -> None:
    """Control groups of its own, in those trees that systemd uses here: of both versions, or the second alone."""
    for tree in (CGROUPS / "systemd", CGROUPS / "unified", CGROUPS):
        if (tree / "cgroup.procs").exists():
            group = tree / machine.namespace
            stack.callback(_remove_group, group)
            group.mkdir()
            machine.groups.append(group)


def _remove_group(group: Path) -> None:
    if group.exists():
        for each in sorted(group.rglob("*/"), key=lambda path: -len(path.parts)):
            each.rmdir()
        group.rmdir()


def _command(*command: str) -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _quietly(*command: str) -> None:
    """For what may be gone already, as a link is with its namespace."""
    with suppress(RuntimeError):
        _command(*command)
