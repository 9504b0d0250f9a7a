"""Steps of a host's base, done on the host by what is sent there; and files that are sent.

Knows how a step is asked for and how it is told; which steps, and in which order, is decided elsewhere. Every run is by
itself: what it found there is looked at anew the next time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cache
from typing import Any, BinaryIO

import asyncssh
import orjson

from orchestrator.core.errors import HostError
from orchestrator.nodes.probe import module_texts
from orchestrator.nodes.program_file import Ready
from orchestrator.nodes.remote_probe import ended
from orchestrator.nodes.sending import program_on
from orchestrator.nodes.ssh import LostError, SshError, SshHost

CHUNK_BYTES = 2**18
# On top of a step's own time: a run that another deploy holds up waits this long for it (`onhost/work.py`).
LOCK_WAIT_S = 20.0

_PACKAGE = "orchestrator.nodes.onhost"
_MAIN = f"{_PACKAGE}.base"
_PARTS = ("work", "owner", "accounts", "archive", "receiving", "program", "kept", "units", "tls_text", "tls", "removal")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose deploy this is: the place (one state folder), the deployment's number, and who ran it.

    `leader`: the token of a controller that is one of several; 0: of none.
    """

    place: str
    number: int
    by: str = ""
    leader: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One step as the host knows it (`onhost/base.py`), and what the operator calls it."""

    name: str
    do: str
    asked: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Said:
    """How a step ended: whether it changed the host (dry: would), what is there then, and what only the caller uses."""

    step: str
    is_changed: bool
    words: str
    more: Mapping[str, Any] = field(default_factory=dict)


def claimed(owner: Owner, *, take_over: bool = False) -> Step:
    """Be the host's owner, or be refused: it is another place's, or has a later deployment."""
    asked = {"place": owner.place, "number": owner.number, "by": owner.by, "take_over": take_over}
    return Step("owner", "claim", asked)


def held(owner: Owner) -> Step:
    """Go on only where the host is still this deployment's; comes first in whatever follows a claim."""
    return Step("owner", "hold", {"place": owner.place, "number": owner.number, "leader": owner.leader})


async def claim(host: SshHost, owner: Owner, *, take_over: bool = False) -> Said:
    """Claim the host, and nothing else. Raises SshError where it is somebody else's."""
    (said,) = [each async for each in run(host, (claimed(owner, take_over=take_over),))]
    return said


async def seen_as(host: SshHost) -> str:
    """The address that the host sees this machine at: behind NAT another than this machine's own. Raises SshError."""
    told = await host.run(("printenv", "SSH_CONNECTION"), step="firewall")
    return told.out.decode().split()[0].partition("%")[0]


async def shown_certificate(host: SshHost) -> str:
    """What the host shows to who asks its instances over TLS, and behind it whom it trusts, in PEM; '': TLS was never
    deployed there. What cannot be shown, as its file is damaged, is a certificate that cannot be read; a host whose
    unit or settings for TLS are damaged trusts nobody.

    Raises SshError.
    """
    async with aclosing(run(host, (Step("tls", "look tls"),), is_dry=True)) as saying:
        (shown,) = [str(each.more["certificate"]) async for each in saying]
    return shown


async def renew_certificate(host: SshHost, owner: Owner, trusted: str, pem: str | None) -> None:
    """Have the host trust these, and show another, `pem` with its key, None the one it shows; what is damaged of its
    unit and settings is mended. Nothing where TLS was never deployed. Raises SshError."""
    asked = {"authority": trusted, "host": pem}
    async with aclosing(run(host, (held(owner), Step("tls", "renew tls", asked)))) as saying:
        async for _ in saying:
            pass


async def check_held(host: SshHost, owner: Owner, *, is_dry: bool = True) -> None:
    """Raises SshError where the host is not this deployment's any more, or has seen a later controller.

    Otherwise the host has seen this one from then on, unless the look `is_dry`.
    """
    async with aclosing(run(host, (held(owner),), is_dry=is_dry)) as saying:
        async for _ in saying:
            return


async def run(
    host: SshHost, steps: Sequence[Step], *, is_dry: bool = False, is_alone: bool = True
) -> AsyncGenerator[Said, None]:
    """Do `steps` on the host, one after the other, each told as it ends. Raises SshError at the first that fails.

    While a run `is_alone` no other such one goes on there. A dry one changes nothing, and waits for nobody.
    """
    bundle = _bundle(steps, is_dry=is_dry, is_alone=is_alone and not is_dry)
    async with program_on(host, bundle, step=steps[0].name) as process:
        for step in steps:
            said: Said | None = None
            while said is None:
                said = _read(host, step, await _line(host, process, step.name))
            yield said


async def send(
    host: SshHost, file: Ready, owner: Owner, on_progress: Callable[[int, int], None] = lambda sent, of: None
) -> Said:
    """Bring a file's bytes there, those that are not there yet. Raises SshError; then the next `send` goes on."""
    step = Step("upload", "receive", {"sent": file.sha256, "size": file.size_bytes})
    hold = held(owner)
    bundle = _bundle((hold, step), is_dry=False, is_alone=False)
    with _opened(file) as source:
        async with program_on(host, bundle, step=step.name) as process:
            _read(host, hold, await _line(host, process, hold.name))
            ready = await _line(host, process, step.name)
            _read(host, step, ready)
            source.seek(int(ready["offset"]))
            await _write(host, source, file.size_bytes, process, on_progress)
            while (said := _read(host, step, await _line(host, process, step.name))) is None:
                pass
            return said


async def _write(
    host: SshHost,
    source: BinaryIO,
    size_bytes: int,
    process: asyncssh.SSHClientProcess[bytes],
    on_progress: Callable[[int, int], None],
) -> None:
    """The rest of `source`. A host that refuses more of it has said why by then: that is read by the caller."""
    try:
        while chunk := await asyncio.to_thread(source.read, CHUNK_BYTES):
            process.stdin.write(chunk)
            async with asyncio.timeout(host.waits.step_s):
                await process.stdin.drain()
            on_progress(source.tell(), size_bytes)
        process.stdin.write_eof()
    except TimeoutError as error:
        wait_s = host.waits.step_s
        raise SshError(host.node, "upload", f"upload: the host took nothing for {wait_s:g} s") from error
    except BrokenPipeError:
        if host.is_lost:
            raise


def _opened(file: Ready) -> BinaryIO:
    try:
        return file.path.open("rb")
    except OSError as error:
        raise HostError(f"{file.path} cannot be read: {error.strerror or error}") from error


async def _line(host: SshHost, process: asyncssh.SSHClientProcess[bytes], step: str) -> dict[str, Any]:
    """The next line that the program prints. A long step prints one a second."""
    wait_s = host.waits.step_s + LOCK_WAIT_S
    try:
        async with asyncio.timeout(wait_s):
            line = await process.stdout.readline()
    except TimeoutError as error:
        raise SshError(host.node, step, f"{step}: not done within {wait_s:g} s") from error
    if not line.endswith(b"\n"):
        complaint = (await process.stderr.read()).decode(errors="replace").strip()
        await process.wait_closed()
        if host.is_lost:
            raise LostError(host.node, step)
        raise ended(host, step, process.exit_status, complaint)
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise SshError(host.node, step, f"{step}: the host printed {line[:200]!r}") from error
    return dict(said)


def _read(host: SshHost, step: Step, line: Mapping[str, Any]) -> Said | None:
    """How the step ended; None while it goes on. Raises SshError where it cannot be done."""
    if "error" in line:
        raise SshError(host.node, step.name, f"{step.name}: {line['error']}")
    if "goes_on" in line:
        return None
    return Said(step.name, bool(line["is_changed"]), str(line["words"]), line["more"])


def _bundle(steps: Sequence[Step], *, is_dry: bool, is_alone: bool) -> dict[str, Any]:
    return {
        "main": _MAIN,
        "root": "/",
        "is_dry": is_dry,
        "is_alone": is_alone,
        "steps": [{"do": each.do, **each.asked} for each in steps],
        **_modules(),
    }


@cache
def _modules() -> dict[str, list[tuple[str, str]]]:
    """Each module after those that it imports."""
    parents = ("orchestrator", "orchestrator.nodes", _PACKAGE, "orchestrator.whole_file")
    return {_MAIN: module_texts(*parents, *(f"{_PACKAGE}.{each}" for each in _PARTS), _MAIN)}
