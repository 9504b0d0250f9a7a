"""What the store's tests share: a server that can die, the pool they play with, and ways to look at it."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.core.errors import StoreError
from orchestrator.core.model import InstanceId, LeaseId, PoolName
from orchestrator.store.admission import AdmitRequest
from orchestrator.store.connection import Connection
from orchestrator.store.embedded import find_server, server_command, server_socket, server_url
from orchestrator.store.leases import Leases
from orchestrator.store.pools import PoolLoad, pool_load, publish_pool
from orchestrator.store.slots import SLOTS
from tests.ports import free_port
from tests.waiting import wait_until

POOL = PoolName("llama3.2:3b")
ONE, TWO = InstanceId("gpu-1"), InstanceId("gpu-2")


@contextmanager
def playing(binary: Path, folder: Path, port: int, options: list[str], config: Path | None = None) -> Iterator[None]:
    """A server on TCP, for what a private socket cannot play."""
    command = [str(binary), *([str(config)] if config else []), "--port", str(port), "--dir", str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers_at(port) or process.poll() is not None, "the server answers")
        assert process.poll() is None, "the server ended at once"
        yield
    finally:
        process.terminate()
        process.wait()


def _answers_at(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


Connect = Callable[..., Awaitable[Connection]]
MakeGateway = Callable[..., Awaitable[Leases]]


class Server:
    """A server of our own that can be killed, stopped and started again."""

    def __init__(self, binary: Path, state: Path) -> None:
        self.state = state
        self.url = server_url(state)
        # What was answered is in its file when it is killed. With `everysec` a write is put off for up to two seconds
        # while a sync is under way, which a busy disk takes long for.
        self._command = [*server_command(state, binary), "--appendfsync", "no"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._process = process
        wait_until(lambda: self._answers() or process.poll() is not None, "the server answers")
        assert process.poll() is None, "the server ended at once"

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """An ordered stop; it writes down what it has."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def lose_data(self) -> None:
        shutil.rmtree(self.state / "redis" / "appendonlydir")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
            probe.settimeout(5)
            probe.connect(str(server_socket(self.state)))
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith(b"+PONG")
        return False


class Cluster:
    """A Redis Cluster of our own: `masters` of them, and a replica of each if wanted."""

    def __init__(self, binary: Path, folder: Path, masters: int = 3, *, has_replicas: bool = False) -> None:
        self.ports = [free_port() for _ in range(masters * (2 if has_replicas else 1))]
        self.masters = self.ports[:masters]
        self.url = f"cluster://127.0.0.1:{self.masters[-1]},127.0.0.1:{self.masters[0]}"
        self._buses = {port: free_port() for port in self.ports}
        self._binary, self._folder = binary, folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for port in self.ports:
            self.start_node(port)
        for port in self.ports:
            ask(port, "CLUSTER", "MEET", "127.0.0.1", str(self.masters[0]), str(self._buses[self.masters[0]]))
        share = -(-SLOTS // len(self.masters))
        for place, port in enumerate(self.masters):
            last = min(SLOTS, (place + 1) * share) - 1
            ask(port, "CLUSTER", "ADDSLOTSRANGE", str(place * share), str(last))
        wait_until(lambda: all(self._knows_all(port) for port in self.ports), "the nodes know each other")
        for port, master in zip(self.ports[len(self.masters) :], self.masters, strict=False):
            ask(port, "CLUSTER", "REPLICATE", ask(master, "CLUSTER", "MYID").decode())
        wait_until(lambda: all(self.is_ok(port) for port in self.ports), "the cluster is whole")

    def start_node(self, port: int) -> None:
        folder = self._folder / str(port)
        folder.mkdir(exist_ok=True)
        settings = {
            "port": port,
            "cluster-port": self._buses[port],
            "cluster-enabled": "yes",
            "cluster-node-timeout": 1000,
            "cluster-config-file": "nodes.conf",
            "dir": folder,
            "save": "",
            "appendonly": "no",
            "bind": "127.0.0.1",
        }
        words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
        process = subprocess.Popen([str(self._binary), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._processes[port] = process
        wait_until(lambda: _answers_at(port) or process.poll() is not None, "the server answers")
        assert process.poll() is None, "the server ended at once"

    def kill_node(self, port: int) -> None:
        process = self._processes.pop(port)
        process.kill()
        process.wait()

    def kill(self) -> None:
        for port in list(self._processes):
            self.kill_node(port)

    def is_ok(self, port: int) -> bool:
        told = ask(port, "CLUSTER", "INFO")
        return b"cluster_state:ok" in told and self._replicates(port)

    def _replicates(self, port: int) -> bool:
        return port in self.masters or b"master_link_status:up" in ask(port, "INFO", "replication")

    def _knows_all(self, port: int) -> bool:
        nodes = ask(port, "CLUSTER", "NODES").decode().splitlines()
        return len(nodes) == len(self.ports) and not any("handshake" in each for each in nodes)


def ask(port: int, *words: str) -> bytes:
    """One command to one server, and its answer as it came, without what frames it. Raises OSError."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as link, link.makefile("rb") as read:
        link.sendall(f"*{len(words)}\r\n".encode() + b"".join(f"${len(e)}\r\n{e}\r\n".encode() for e in words))
        head = read.readline().rstrip()
        assert not head.startswith(b"-"), (words, head)
        return read.read(int(head[1:])) if head.startswith(b"$") else head[1:]


_numbers = iter(range(10**9))


def request(name: str = "", **more: Any) -> AdmitRequest:
    return AdmitRequest(POOL, LeaseId(name or f"call-{next(_numbers)}"), **more)


async def offer(connection: Connection, **slots: int) -> None:
    """Publish the pool: `gpu_1=2` is two slots on gpu-1."""
    named = {InstanceId(name.replace("_", "-")): each for name, each in slots.items()}
    assert await publish_pool(connection, POOL, named, token=1)


async def look(connection: Connection) -> PoolLoad:
    """The pool as it stands; whatever contradicts itself fails the test."""
    load = await pool_load(connection, POOL)
    assert not load.drift, load.drift
    return load


async def taken(connection: Connection) -> dict[str, int]:
    return {each.instance: each.in_flight for each in (await look(connection)).instances}


async def everywhere(connection: Connection, *command: str) -> None:
    """A command of no key, such as FLUSHALL, asked of every server there is."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def told(_: Any, why: StoreError | None) -> None:
        if why is None:
            done.set_result(None)
        else:
            done.set_exception(why)

    connection.ask_together((command,), told)
    await done


async def all_keys(connection: Connection, match: str = "*") -> set[str]:
    return {key.decode() async for keys in connection.scan(match) for key in keys}


async def now_s(connection: Connection) -> float:
    """By Redis' clock, which is what leases, tickets and ejections end by; unix."""
    seconds, micros = await connection.command("TIME")
    return int(seconds) + int(micros) / 1e6


async def back(*connections: Connection) -> None:
    """Wait until they have noticed a restart and answer again."""
    for each in connections:
        while True:
            await each.open(20)
            with suppress(StoreError):
                await each.command("PING")
                break


@contextmanager
def own_server() -> Iterator[Server]:
    """A server for one test, which may kill it and start it again."""
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        server = Server(find_server(), Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()
