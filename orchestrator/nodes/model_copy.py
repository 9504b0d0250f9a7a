"""A model from one host to another: what gives it there, what takes it here, both over the controller's connections.

The hosts need no account with each other. The giving one listens for as long as its connection stands, on a port that
the kernel chose; a transfer has a token of its own, which both are told over SSH. Which node copies what from whom is
decided elsewhere.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import asyncssh
import orjson

from orchestrator.core.manifests import split_name
from orchestrator.core.model import ModelOnDisk
from orchestrator.nodes.probe import module_texts
from orchestrator.nodes.remote_probe import ended
from orchestrator.nodes.sending import program_on
from orchestrator.nodes.ssh import LostError, SshError, SshHost

GIVE: Final = "give models"
TAKE: Final = "take models"
# What stays free on a disk: a full one stops more than models.
KEEP_FREE_BYTES: Final = 256 * 2**20
BEGIN_S: Final = 30.0  # a loaded host may take long to start its Python
_PACKAGE: Final = "orchestrator.nodes.onhost"
_GIVING, _TAKING = f"{_PACKAGE}.giving", f"{_PACKAGE}.taking"


@dataclass(frozen=True, slots=True)
class CopyTo:
    """Where a node has its models and how others reach it. `user`: whose the models shall be."""

    address: str
    models_dir: str
    user: str


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a host may be silent before it counts as gone, and how often it tells of its progress."""

    silence_s: float = 20.0
    progress_s: float = 1.0

    @property
    def beat_s(self) -> float:
        """How often each host hears that somebody is here."""
        return self.silence_s / 4


class CopyError(SshError):
    """A transfer failed. `fault`: where the cause is, `source`, `target`, `way` between them, or a `corrupt` source."""

    def __init__(self, node: str, step: str, message: str, fault: str) -> None:
        super().__init__(node, step, message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that may be taken now, by whoever has the token. Not `is_reachable`: only over SSH to its host."""

    host: str
    port: int
    is_reachable: bool
    token: str = field(repr=False)
    parts: tuple[str, ...]
    manifest: str
    blobs: Mapping[str, int]


class Giver:
    """A host that gives its models to others; made by `giving`."""

    def __init__(
        self, host: SshHost, process: asyncssh.SSHClientProcess[bytes], listens: Mapping[str, Any], waits: Waits
    ) -> None:
        self.host, self.port = host, int(listens["port"])
        self._process, self._listens, self._waits = process, listens, waits
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def offer(self, model: ModelOnDisk) -> AsyncIterator[Offer]:
        """The model, open to one transfer for as long as the block runs. Raises SshError."""
        name = split_name(model.name)
        if name is None:
            raise CopyError(self.host.node, GIVE, f"{model.name!r} is no model's name", "source")
        token, parts = secrets.token_urlsafe(32), (name.host, name.namespace, name.model, name.tag)
        try:
            told = await self._ask({"offer": token, "parts": parts, "digest": model.digest}, token)
            address, is_reachable = self._listens["host"], self._listens["is_reachable"]
            yield Offer(address, self.port, is_reachable, token, parts, told["manifest"], told["blobs"])
        finally:
            # Where the host is gone, what it offered is gone with it.
            with suppress(SshError):
                await self._ask({"withdraw": token}, f"-{token}")

    async def _ask(self, request: Mapping[str, Any], answer: str) -> dict[str, Any]:
        """What it answers under this name; answers to those who left meanwhile are read away. Raises SshError."""
        async with self._turn:
            try:
                self._process.stdin.write(orjson.dumps(request) + b"\n")
            except (asyncssh.Error, OSError) as error:
                raise LostError(self.host.node, GIVE, str(error)) from error
            while True:
                told = await _line(self.host, GIVE, self._process, self._waits.silence_s)
                if told["answer"] == answer:
                    return _right(self.host, GIVE, told)


@asynccontextmanager
async def giving(host: SshHost, at: CopyTo, *, mib_s: float | None, waits: Waits) -> AsyncIterator[Giver]:
    """The host gives its models for as long as the block runs, all transfers together `mib_s`. Raises SshError."""
    sudo = await host.may_sudo()
    given = {
        "models_dir": at.models_dir,
        "address": at.address,
        "bytes_s": None if mib_s is None else mib_s * 2**20,
        "silence_s": waits.silence_s,
    }
    async with (
        program_on(host, _bundle(_GIVING, given), step=GIVE, sudo=sudo) as process,
        _heard(process, waits),
    ):
        listens = _right(host, GIVE, await _line(host, GIVE, process, BEGIN_S))
        yield Giver(host, process, listens, waits)


async def take(
    host: SshHost,
    at: CopyTo,
    offer: Offer,
    on_progress: Callable[[int, int], None],
    *,
    waits: Waits,
    later_bytes: int = 0,
    keep_free_bytes: int = KEEP_FREE_BYTES,
) -> None:
    """Have the host take what is offered; `on_progress` gets bytes done and in all.

    `later_bytes`: what is to come to this host after it, and needs room as well. Raises CopyError for what the host
    says is wrong, SshError where it says nothing; what was begun stays there and is gone on with the next time.
    """
    sudo = await host.may_sudo()
    given = {
        "host": offer.host,
        "port": offer.port,
        "token": offer.token,
        "parts": offer.parts,
        "manifest": offer.manifest,
        "blobs": dict(offer.blobs),
        "models_dir": at.models_dir,
        "owner": at.user,
        "later_bytes": later_bytes,
        "keep_free_bytes": keep_free_bytes,
        "silence_s": waits.silence_s,
        "interval_s": waits.progress_s,
    }
    async with (
        program_on(host, _bundle(_TAKING, given), step=TAKE, sudo=sudo) as process,
        _heard(process, waits),
    ):
        is_there, wait_s = False, BEGIN_S
        while not is_there:
            told = _right(host, TAKE, await _line(host, TAKE, process, wait_s))
            wait_s = waits.progress_s + waits.silence_s
            on_progress(told["done"], told["total"])
            is_there = told.get("is_there", False)


async def _line(host: SshHost, step: str, process: asyncssh.SSHClientProcess[bytes], wait_s: float) -> dict[str, Any]:
    """What the program says next. Raises SshError where it says nothing."""
    try:
        async with asyncio.timeout(wait_s):
            line = await process.stdout.readline()
    except TimeoutError as error:
        raise SshError(host.node, step, f"{step}: the host was silent for {wait_s:g} s") from error
    except (asyncssh.Error, OSError) as error:
        raise LostError(host.node, step, str(error)) from error
    if not line.endswith(b"\n"):
        complaint = (await process.stderr.read()).decode(errors="replace").strip()
        await process.wait_closed()
        raise ended(host, step, process.exit_status, complaint)
    try:
        told: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        said = line[:200].decode(errors="replace").strip()
        raise SshError(host.node, step, f"{step}: the host said what it was not asked: {said}") from error
    return told


def _right(host: SshHost, step: str, told: dict[str, Any]) -> dict[str, Any]:
    """What it said, unless that is what is wrong: then raises CopyError."""
    if "error" in told:
        raise CopyError(host.node, step, f"{step}: {told['error']}", told["fault"])
    return told


@asynccontextmanager
async def _heard(process: asyncssh.SSHClientProcess[bytes], waits: Waits) -> AsyncIterator[None]:
    """The program on the host hears all the time that somebody is here; otherwise it ends."""

    async def beat() -> None:
        with suppress(asyncssh.Error, OSError):  # the connection is lost: whoever reads from it says so
            while True:
                await asyncio.sleep(waits.beat_s)
                process.stdin.write(b"\n")

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _bundle(main: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the program reads, up to where requests and beats follow."""
    return {"main": main, main: _modules(main), **given}


@cache
def _modules(main: str) -> Sequence[tuple[str, str]]:
    first = ("orchestrator", "orchestrator.nodes", _PACKAGE)
    return module_texts(*first, f"{_PACKAGE}.leash", f"{_PACKAGE}.blobs", main)
