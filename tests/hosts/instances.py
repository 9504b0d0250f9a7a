"""A host as `deploy` leaves it, with the smallest `ollama` there can be, and a keeper of its instances."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeName
from orchestrator.nodes.host_keys import HostKeys
from orchestrator.nodes.keeper_units import Unit
from orchestrator.nodes.ssh import SshAddress, SshWaits, connected
from orchestrator.nodes.systemd import SystemdKeeper
from orchestrator.nodes.systemd_text import render_template
from tests.hosts.machines import Machine, Network
from tests.hosts.reaching import address, known

MODELS = "/srv/instances"
PROGRAM = "/opt/ollamactl/ollama/current/bin/ollama"
FOLDER = "/etc/ollamactl/instances"
PORT = 11500
TIMEOUT_S = 60.0
CLEAN = f"""\
systemctl stop 'ollama@*' 2>/dev/null; systemctl reset-failed 'ollama@*' 2>/dev/null
rm -rf {MODELS} {FOLDER} /opt/ollamactl /etc/systemd/system/ollama@.service*
rm -f /etc/systemd/system/multi-user.target.wants/ollama@*
systemctl daemon-reload
"""

# Tries to open what it is told to, and has memory for code as CUDA does. Then it serves, with a child beside it as
# Ollama has runners; neither the child nor, if it is deaf, itself hears SIGTERM.
PROGRAM_TEXT = """\
#!/usr/bin/python3 -S
import http.server, mmap, os, signal, subprocess, sys
assert sys.argv[1:] == ["serve"]
print("starting", flush=True)
open(os.path.join(os.environ["HOME"], "key"), "w").close()
open(os.path.join(os.environ["OLLAMA_MODELS"], "blob"), "w").close()
for path in os.environ.get("TRY", "").split():
    try:
        file = os.open(path, os.O_RDONLY if path.startswith("/dev/") else os.O_CREAT | os.O_WRONLY)
        print(path, "opened", flush=True)
    except OSError as error:
        print(path, error.strerror, flush=True)
mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1000; done"])
if "DEAF" in os.environ:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
try:
    server = http.server.ThreadingHTTPServer((host, int(port)), http.server.BaseHTTPRequestHandler)
except OSError as error:
    sys.exit(f"Error: listen tcp {host}:{port}: bind: {error.strerror.lower()}")
print("listening", flush=True)
server.serve_forever()
"""


@contextmanager
def furnished(machine: Machine) -> Iterator[Machine]:
    """User, folders, program and template; instances and all of that are gone at the end."""
    machine.run("sh", "-c", "id ollama >/dev/null 2>&1 || useradd --system --shell /usr/sbin/nologin ollama")
    machine.run("install", "-d", "-o", "ollama", MODELS)
    put(machine, PROGRAM, PROGRAM_TEXT, 0o755)
    put(machine, "/etc/systemd/system/ollama@.service", render_template("ollama", MODELS))
    machine.run("systemctl", "daemon-reload")
    try:
        yield machine
    finally:
        machine.mend()
        if machine.process is None:
            machine.power_on()
        machine.run("sh", "-c", CLEAN)


def put(machine: Machine, path: str, text: str, mode: int = 0o644) -> None:
    file = machine.files / path[1:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)


def unit(machine: Machine, name: str = "a", port: int = PORT, **env: str) -> Unit:
    """An instance that is ready once it listens."""
    environment = {"OLLAMA_HOST": f"{machine.address}:{port}", "OLLAMA_MODELS": MODELS, **env}
    return Unit(f"engine-{name}", ("ollama", "serve"), env=environment, ready=f"tcp:{machine.address}:{port}")


def inside(machine: Machine, name: str) -> list[int]:
    """Pids, as the host has them, of all processes in an instance's control group."""
    pattern = shlex.quote(f"/ollama@{name}.service$")
    found = machine.run("sh", "-c", f"grep -ls {pattern} /proc/[0-9]*/cgroup || true").split()
    return sorted(int(Path(each).parent.name) for each in found)


@asynccontextmanager
async def kept(net: Network, machine: Machine, folder: Path, user: str = "ops") -> AsyncIterator[SystemdKeeper]:
    """A keeper at work."""
    async with kept_at(address(net, machine, user=user), known(folder, machine)) as keeper:
        yield keeper


@asynccontextmanager
async def kept_at(at: SshAddress, keys: HostKeys) -> AsyncIterator[SystemdKeeper]:
    keeper = SystemdKeeper(NodeName(at.node), lambda: connected(at, keys, SshWaits(connect_s=5.0)))
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def heard(keeper: SystemdKeeper) -> AsyncIterator[list[Any]]:
    """What happens from now on, and how listening ended."""
    found: list[Any] = []
    events = keeper.events()

    async def listen() -> None:
        try:
            async for event in events:
                found.append(event)
        except HostError as error:
            found.append(error)

    await keeper.list()  # connected, so that the first thing heard is news
    task = asyncio.create_task(listen())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
