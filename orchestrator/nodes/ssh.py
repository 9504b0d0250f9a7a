"""One SSH connection to a host: commands, their input and output, and what keeps them from running in one line.

A host is known by its pinned key or not spoken to. Commands are lists of words; where SSH forces a string they are
quoted here, so nothing that came in from outside is ever read by a shell. What to run is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import shlex
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import asyncssh

from orchestrator.core.errors import Barrier, HostError
from orchestrator.core.model import NodeName
from orchestrator.nodes.host_keys import HostKeys, fingerprint
from orchestrator.nodes.names import name_unknown
from orchestrator.nodes.onhost import policy

SUDO = ("sudo", "-n", "--")
# All that root does for whoever logs in at a restricted host (`onhost/restricted.py`): these words and no others.
# Without `site`: what lies in the folders of packages is not always root's alone, and would run before any check.
HOST_PROGRAM = (policy.PYTHON, "-I", "-S", policy.PROGRAM)
MAY_THEY = ("sudo", "-n", "-l", "--")
# sshd gives a connection ten sessions by default (MaxSessions); one more waits here instead of failing there.
SESSIONS_AT_ONCE = 8
SESSION_ENDS_S = 0.05
MOST_OUTPUT_BYTES = 16 * 2**20
COMMAND_NOT_FOUND = 127

_OTHER_KEY = (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed)


@dataclass(frozen=True, slots=True)
class SshAddress:
    """Where a node is reached, as whom, and with which key; without one the agent's and the user's usual ones."""

    node: NodeName
    host: str
    port: int = 22
    user: str | None = None
    key: Path | None = None

    def __str__(self) -> str:
        at = f"{self.user}@{self.host}" if self.user else self.host
        return at if self.port == 22 else f"{at}:{self.port}"


@dataclass(frozen=True, slots=True)
class SshWaits:
    """How long a host may take; silence of three keep-alives in a row ends the connection."""

    connect_s: float = 10.0
    step_s: float = 60.0
    keepalive_s: float = 15.0


class SshError(HostError):
    """A step on a node failed; the text is one line for the operator, the node's name first."""

    def __init__(self, node: str, step: str, message: str, barrier: Barrier = Barrier.USED) -> None:
        super().__init__(f"{node}: {message}")
        self.barrier = barrier
        self.node = node
        self.step = step
        self.message = message


class HostKeyError(SshError):
    """The host has not shown the key it must have. `shown` is the fingerprint of the one it has, where known."""

    def __init__(self, node: str, message: str, shown: str | None = None) -> None:
        super().__init__(node, "host key", message, Barrier.TRUSTED)
        self.shown = shown


class LostError(SshError):
    """The connection was there, and is gone: whatever was under way may be tried again over a new one."""

    def __init__(self, node: str, step: str, why: str = "") -> None:
        super().__init__(node, step, f"{step}: the connection was lost{f' ({why})' if why else ''}", Barrier.REACHED)


class Rights(Enum):
    """What root does for who logs in: they are root, or may do everything, start one program, or nothing."""

    ROOT = "root"
    SUDO = "sudo"
    RESTRICTED = "restricted"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    status: int
    out: bytes
    err: bytes

    @property
    def last_words(self) -> str:
        """The last line it printed, complaints first."""
        for text in (self.err, self.out):
            if said := text.decode(errors="replace").strip():
                return said.splitlines()[-1]
        return ""


class SshHost:
    """A connected host. Commands run side by side on its one connection."""

    def __init__(self, address: SshAddress, connection: asyncssh.SSHClientConnection, waits: SshWaits) -> None:
        self.address = address
        self.node = address.node
        self._connection = connection
        self.waits = waits
        self._sessions = asyncio.Semaphore(SESSIONS_AT_ONCE)
        self._rights: Rights | None = None

    async def run(
        self,
        argv: Sequence[str],
        *,
        step: str,
        given: bytes = b"",
        sudo: bool = False,
        timeout_s: float | None = None,
        check: bool = True,
    ) -> Ran:
        """Run one command to its end. Raises SshError, also for a status other than 0 unless `check` is False."""
        wait_s = self.waits.step_s if timeout_s is None else timeout_s
        command = [*(await self.become() if sudo else ()), *argv]
        try:
            async with self._sessions, asyncio.timeout(wait_s):
                process = await self._process(command)
                try:
                    out, err = await process.communicate(given)
                finally:
                    process.close()
        except TimeoutError as error:
            raise SshError(self.node, step, f"{step}: not done within {wait_s:g} s") from error
        except (asyncssh.Error, OSError) as error:
            raise _lost(self.node, step, error) from error
        if process.exit_status is None and self._connection.is_closed():
            raise LostError(self.node, step)
        ran = Ran(_status(process.exit_status), out[:MOST_OUTPUT_BYTES], err[:MOST_OUTPUT_BYTES])
        if check and ran.status:
            raise SshError(self.node, step, f"{step}: {ran.last_words or f'{argv[0]} ended with status {ran.status}'}")
        return ran

    @asynccontextmanager
    async def started(
        self, argv: Sequence[str], *, step: str, given: bytes = b"", sudo: bool = False
    ) -> AsyncIterator[asyncssh.SSHClientProcess[bytes]]:
        """A command that runs as long as the block does; its standard input stays open until then."""
        command = [*(await self.become() if sudo else ()), *argv]
        async with self._sessions:
            try:
                async with asyncio.timeout(self.waits.step_s):
                    process = await self._process(command)
            except TimeoutError as error:
                raise SshError(self.node, step, f"{step}: not begun within {self.waits.step_s:g} s") from error
            except (asyncssh.Error, OSError) as error:
                raise _lost(self.node, step, error) from error
            try:
                process.stdin.write(given)
                yield process
            except (asyncssh.Error, OSError) as error:
                raise _lost(self.node, step, error) from error
            finally:
                process.close()

    async def _process(self, command: Sequence[str]) -> asyncssh.SSHClientProcess[bytes]:
        """Begin a command; the caller's time limit is this one's, too."""
        while True:
            try:
                return await self._connection.create_process(shlex.join(command), encoding=None)
            except asyncssh.ChannelOpenError as error:
                # sshd counts a session for a moment longer than it takes to end, and tells nobody when it stops.
                if error.code != asyncssh.OPEN_CONNECT_FAILED or self._connection.is_closed():
                    raise
                await asyncio.sleep(SESSION_ENDS_S)

    async def write(self, path: str, content: bytes, *, mode: str = "0644", sudo: bool = True) -> None:
        """Put a file there, whole or not at all."""
        beside = f"{path}.new"
        await self.run(("install", "-m", mode, "/dev/stdin", beside), step=f"write {path}", given=content, sudo=sudo)
        await self.run(("mv", "-T", beside, path), step=f"write {path}", sudo=sudo)

    async def become(self) -> tuple[str, ...]:
        """What comes before a command that root must run. Raises SshError where this user cannot have it run."""
        who = self.address.user or "this user"
        match await self.rights():
            case Rights.ROOT:
                return ()
            case Rights.SUDO:
                return SUDO
            case Rights.RESTRICTED:
                why = (
                    f"{who} may do as root what ollamactl does with instances, and no commands "
                    f"(`ollamactl nodes restrict {self.node}`): log in as somebody else for that"
                )
            case Rights.NONE:
                why = (
                    f"no sudo without a password for {who}: add `USER ALL=(ALL) NOPASSWD: ALL` to /etc/sudoers.d there"
                )
        raise SshError(self.node, "sudo", why, Barrier.SUDO)

    async def rights(self) -> Rights:
        """What root does here for who is logged in; asked for once. Raises SshError."""
        if self._rights is None:
            who = await self.run(("id", "-u"), step="who am I")
            if who.out.strip() == b"0":
                self._rights = Rights.ROOT
            elif (await self.run((*SUDO, "true"), step="sudo", check=False)).status == 0:
                self._rights = Rights.SUDO
            elif (await self.run((*MAY_THEY, *HOST_PROGRAM), step="sudo", check=False)).status == 0:
                self._rights = Rights.RESTRICTED
            else:
                return Rights.NONE  # it may be allowed while we are here
        return self._rights

    async def may_sudo(self) -> bool:
        try:
            await self.become()
        except SshError as error:
            if error.step == "sudo":
                return False
            raise
        return True

    @property
    def is_lost(self) -> bool:
        return self._connection.is_closed()

    @asynccontextmanager
    async def reached_by(self, other: SshHost, address: str, port: int) -> AsyncIterator[int]:
        """A port of `other`'s own loopback that leads to `address:port` as seen from here, through this process.

        Raises SshError, which names the host whose sshd does not forward (AllowTcpForwarding).
        """
        with tempfile.TemporaryDirectory() as folder:
            between = f"{folder}/between"
            try:
                near = await self._connection.forward_local_path_to_port(between, address, port)
            except (asyncssh.Error, OSError) as error:
                raise _lost(self.node, "forward", error) from error
            try:
                far = await other._connection.forward_remote_port_to_path("127.0.0.1", 0, between)
            except (asyncssh.Error, OSError) as error:
                near.close()
                raise SshError(other.node, "forward", f"forward: its sshd does not ({error})") from error
            try:
                yield far.get_port()
            finally:
                far.close()
                near.close()

    async def close(self) -> None:
        """End the connection, and with it everything that `started` here."""
        self._connection.close()
        try:
            async with asyncio.timeout(1.0):
                await self._connection.wait_closed()
        except TimeoutError:  # the other side does not answer; its half is given up
            self._connection.abort()


@asynccontextmanager
async def connected(address: SshAddress, keys: HostKeys, waits: SshWaits | None = None) -> AsyncIterator[SshHost]:
    """The host, for as long as the block runs."""
    host = await connect(address, keys, waits)
    try:
        yield host
    finally:
        await host.close()


async def connect(address: SshAddress, keys: HostKeys, waits: SshWaits | None = None) -> SshHost:
    """Log in at a host whose key is pinned. Raises SshError; HostKeyError where the key is new or another."""
    waits = waits or SshWaits()
    pinned = keys.pinned(address.host, address.port)
    if pinned is None:
        raise HostKeyError(
            address.node, f"host key of {address.host} not known yet: `ollamactl nodes add {address.node}` shows it"
        )
    try:
        async with asyncio.timeout(waits.connect_s):
            connection = await asyncssh.connect(
                address.host,
                address.port,
                username=address.user or (),
                client_keys=() if address.key is None else [str(address.key.expanduser())],
                agent_path=() if address.key is None else None,
                known_hosts=([pinned], [], []),
                keepalive_interval=waits.keepalive_s,
                keepalive_count_max=3,
                password=None,
                login_timeout=waits.connect_s,
            )
    except (*_OTHER_KEY, asyncssh.ConnectionLost, ConnectionResetError) as error:
        # A host that has no key of the pinned one's kind any more may just hang up.
        raise await _changed_key(address, pinned, waits) or _why_not_connected(address, waits, error) from error
    except (asyncssh.Error, asyncssh.KeyImportError, OSError, ValueError) as error:
        raise _why_not_connected(address, waits, error) from error
    return SshHost(address, connection, waits)


async def shown_key(address: SshAddress, waits: SshWaits | None = None) -> asyncssh.SSHKey:
    """The key that the host shows, before anything is told to it. Raises SshError."""
    waits = waits or SshWaits()
    try:
        async with asyncio.timeout(waits.connect_s):
            key = await asyncssh.get_server_host_key(address.host, address.port)
    except (asyncssh.Error, OSError, ValueError) as error:
        raise _why_not_connected(address, waits, error) from error
    if key is None:
        raise SshError(address.node, "host key", f"{address.host} shows no host key")
    return key


async def _changed_key(address: SshAddress, pinned: asyncssh.SSHKey, waits: SshWaits) -> SshError | None:
    """What to say where the host has another key than it had; None where it has not, or shows none."""
    try:
        shown = fingerprint(await shown_key(address, waits))
    except SshError:
        return None
    if shown == fingerprint(pinned):
        return None
    return HostKeyError(
        address.node,
        f"the host key of {address.host} is {shown} now and was {fingerprint(pinned)}: somebody may be in between. "
        "Where the host was set up anew, compare it there (`ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub`) and pin it: "
        f"`ollamactl nodes add {address.node} --fingerprint {shown}`",
        shown,
    )


def _why_not_connected(address: SshAddress, waits: SshWaits, error: Exception) -> SshError:
    def said(message: str, barrier: Barrier = Barrier.REACHED) -> SshError:
        return SshError(address.node, "connect", message, barrier)

    match error:
        case asyncssh.PermissionDenied():
            which = f"key {address.key}" if address.key else "any key of the agent and ~/.ssh"
            return said(
                f"{address} does not accept {which}: add its public half to ~/.ssh/authorized_keys there, or name "
                "another `user` or `key`",
                Barrier.LOGGED_IN,
            )
        case asyncssh.KeyImportError() | asyncssh.KeyEncryptionError():
            why = f"the key {address.key} cannot be used ({error}); a key with a passphrase goes into the agent"
            return said(why, Barrier.LOGGED_IN)
        case FileNotFoundError() if address.key is not None and not address.key.expanduser().exists():
            return said(f"there is no key at {address.key}", Barrier.LOGGED_IN)
        case TimeoutError():
            return said(f"{address} did not answer within {waits.connect_s:g} s")
        case asyncssh.Error():
            return said(f"{address}: {error.reason or type(error).__name__}", Barrier.LOGGED_IN)
        case socket.gaierror():
            return said(name_unknown(address.host, error.strerror or str(error)))
        case OSError():
            return said(f"{address} cannot be reached: {error.strerror or error}")
        case _:
            return said(f"{address} cannot be reached: {error}")


def _lost(node: str, step: str, error: Exception) -> LostError:
    return LostError(node, step, str(error) or type(error).__name__)


def _status(told: int | None) -> int:
    """A command that a signal ended tells no status."""
    return -1 if told is None else told
