"""The base of a host: what every host gets before an instance starts there, step by step, and taken away again.

Decides which steps there are, their order and when bytes are sent. What a step does on the host, and what it finds
there, is the host's part (`nodes/hoststeps.py`). A step looks and changes only what differs: a second run changes
nothing, and one that was cut off is finished by the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeName
from orchestrator.fleet.inventory import Reach
from orchestrator.nodes.hoststeps import Owner, Said, Step, claimed, held, run, seen_as, send, shown_certificate
from orchestrator.nodes.program_file import Program
from orchestrator.nodes.ssh import LostError, SshAddress, SshError, SshHost, connected

HOSTS_AT_ONCE = 32
# Beyond some, bytes sent at once only make each host wait longer, and encrypting them takes this machine's CPU.
SENT_AT_ONCE = 4
# Pauses before a host whose connection was lost is tried again, all of its steps anew. Nothing else is tried again:
# what a host refuses once it refuses twice.
TRIED_AGAIN_AFTER_S = (1.0, 4.0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TlsWanted:
    """The certificates of what ends TLS before instances.

    `papers`: from the certificate that the host shows, '' none, to whom it is to trust, as it is at that moment, and
    to another certificate with its key; None: that one stays.
    """

    papers: Callable[[str], tuple[str, str | None]]


@dataclass(frozen=True, slots=True)
class BaseWanted:
    """What a host is to have.

    `program`: None for the `ollama` that is on its PATH. `firewall`: the rules, or what makes them of the address that
    the host sees this machine at; None for none. `tls`: None leaves what is there of it.
    """

    user: str
    models_dir: str
    program: Program | None
    unit: str
    firewall: str | Callable[[str], str] | None
    owner: Owner
    take_over: bool = False
    tls: TlsWanted | None = None


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step as it ended: whether it changed the host, and what is there now; in a dry run, what would be."""

    node: NodeName
    step: str
    is_changed: bool
    words: str


@dataclass(frozen=True, slots=True)
class Made:
    """How a host fared. `error`: one line on what stopped it; what was done until then is in `steps`."""

    node: NodeName
    steps: tuple[StepDone, ...]
    error: str = ""

    @property
    def is_changed(self) -> bool:
        return any(each.is_changed for each in self.steps)


OnStep = Callable[[StepDone], None]
OnProgress = Callable[[NodeName, int, int], None]  # bytes sent, of how many


def _no_step(step: StepDone) -> None:
    """Nobody listens."""


def _no_progress(node: NodeName, sent: int, of: int) -> None:
    """Nobody listens."""


async def make_base(
    host: SshHost,
    wanted: BaseWanted,
    *,
    dry_run: bool = False,
    on_step: OnStep = _no_step,
    on_progress: OnProgress = _no_progress,
    sending: asyncio.Semaphore | None = None,
) -> tuple[StepDone, ...]:
    """Have all of `wanted` on the host. Raises SshError, which names the step; HostError for the program's file.

    `sending`: how many hosts are sent bytes at the same time, where several are made.
    """
    told = _Told(host.node, on_step)
    program = wanted.program
    kept = _kept(wanted.unit, await _rules(host, wanted))
    first = [*_ground(wanted), *(() if program is None else (Step("program", "look", {"digest": program.digest}),))]
    if dry_run:
        await told.all(host, [*first, *_own(wanted), *kept, *await _tls(host, wanted.tls)], is_dry=True)
        return tuple(told.steps)
    (*_, last) = await told.all(host, first, untold="look")
    have: Sequence[Step] = _own(wanted)
    if program is not None:
        has_it = last.more["has_it"]
        brought = {} if has_it else await _bring(host, wanted, program, told, on_progress, sending)
        have = (_installed(wanted, program, brought),)
    await told.all(host, [held(wanted.owner), *have, *kept], untold="hold")
    if tls := await _tls(host, wanted.tls):  # last: bytes took minutes, and another authority may have come meanwhile
        await told.all(host, [held(wanted.owner), *tls], untold="hold")
    return tuple(told.steps)


async def base_of(host: SshHost, wanted: BaseWanted) -> tuple[StepDone, ...]:
    """What `make_base` would change, with nothing changed. Raises SshError where it would not even begin."""
    return await make_base(host, wanted, dry_run=True)


async def remove_base(
    host: SshHost,
    wanted: BaseWanted,
    *,
    with_models: bool = False,
    dry_run: bool = False,
    on_step: OnStep = _no_step,
) -> tuple[StepDone, ...]:
    """Take everything of ours from the host: instances, units, rules, program, user. Raises SshError.

    Models stay unless asked for. A user that was there before us stays, and so does one that models belong to.
    """
    owner, folder = wanted.owner, {"models_dir": wanted.models_dir}
    mine = {"place": owner.place, "number": owner.number, "take_over": wanted.take_over}
    told = _Told(host.node, on_step)
    steps = [
        Step("owner", "permit", mine),
        Step("instances", "stop"),
        Step("firewall and unit", "drop kept"),
        *((Step("models", "drop models", folder),) if with_models else ()),
        Step("user", "drop user", {"user": wanted.user, "are_models_gone": with_models, **folder}),
        Step("folders", "drop folders"),
    ]
    await told.all(host, steps, is_dry=dry_run)
    return tuple(told.steps)


async def make_bases(
    asked: Sequence[tuple[SshAddress, BaseWanted]],
    reach: Reach,
    *,
    dry_run: bool = False,
    on_step: OnStep = _no_step,
    on_progress: OnProgress = _no_progress,
) -> tuple[Made, ...]:
    """Every host at the same time; what stops one of them is told of it, and stops no other."""
    at_once, sending = asyncio.Semaphore(HOSTS_AT_ONCE), asyncio.Semaphore(SENT_AT_ONCE)

    async def make(address: SshAddress, wanted: BaseWanted) -> Made:
        done: dict[str, StepDone] = {}

        def on(step: StepDone) -> None:
            """A host that is tried again has changed what it changed at the first try."""
            before = done.get(step.step, step)
            done[step.step] = replace(step, is_changed=step.is_changed or before.is_changed)
            on_step(step)

        async def once(host: SshHost) -> None:
            await make_base(host, wanted, dry_run=dry_run, on_step=on, on_progress=on_progress, sending=sending)

        async with at_once:
            try:
                await again_if_lost(address, reach, once)
            except HostError as error:
                return Made(address.node, tuple(done.values()), str(error))
        return Made(address.node, tuple(done.values()))

    return tuple(await asyncio.gather(*(make(*each) for each in asked)))


async def again_if_lost(address: SshAddress, reach: Reach, work: Callable[[SshHost], Awaitable[T]]) -> T:
    """Do `work` on a host, and do it again from its beginning where the connection was lost. Raises HostError."""
    lost: LostError | None = None
    for pause_s in (0.0, *TRIED_AGAIN_AFTER_S):
        await asyncio.sleep(pause_s)
        try:
            async with connected(address, reach.keys, reach.waits) as host:
                return await work(host)
        except LostError as error:
            lost = error
        except SshError as error:
            if lost is None or error.step != "connect":
                raise
    assert lost is not None
    raise lost


class _Told:
    """The steps of one host as they end, each told to the caller once."""

    def __init__(self, node: NodeName, on_step: OnStep) -> None:
        self._node = node
        self._on_step = on_step
        self.steps: list[StepDone] = []

    async def all(
        self, host: SshHost, steps: Sequence[Step], *, is_dry: bool = False, untold: str = ""
    ) -> tuple[Said, ...]:
        """Do them. The one that the host calls `untold` is not of interest to the operator."""
        said: list[Said] = []
        async with aclosing(run(host, steps, is_dry=is_dry)) as saying:
            async for each in saying:
                if steps[len(said)].do != untold:
                    self.one(each)
                said.append(each)
        return tuple(said)

    def one(self, said: Said) -> None:
        done = StepDone(self._node, said.step, said.is_changed, said.words)
        self.steps.append(done)
        self._on_step(done)


def _ground(wanted: BaseWanted) -> tuple[Step, ...]:
    """What stands before any program: a host that can be deployed to, that is ours, with a user and folders."""
    return (
        Step("system", "system"),
        claimed(wanted.owner, take_over=wanted.take_over),
        Step("user", "user", {"user": wanted.user}),
        Step("folders", "folders", {"user": wanted.user, "models_dir": wanted.models_dir}),
    )


def _own(wanted: BaseWanted) -> tuple[Step, ...]:
    return () if wanted.program is not None else (Step("program", "link", {"user": wanted.user}),)


def _installed(wanted: BaseWanted, program: Program, brought: dict[str, object]) -> Step:
    return Step("program", "install", {"digest": program.digest, "user": wanted.user, **brought})


async def _rules(host: SshHost, wanted: BaseWanted) -> str | None:
    rules = wanted.firewall
    return rules(await seen_as(host)) if callable(rules) else rules


def _kept(unit: str, rules: str | None) -> tuple[Step, ...]:
    """What systemd and the kernel keep; rules before anything that they protect can start."""
    return Step("firewall", "firewall", {"text": rules}), Step("unit", "unit", {"text": unit})


async def texts_of(host: SshHost, wanted: BaseWanted) -> dict[str, str | None]:
    """By step, the texts that `make_base` would have written there. Raises SshError."""
    return {each.do: each.asked["text"] for each in _kept(wanted.unit, await _rules(host, wanted))}


async def _tls(host: SshHost, wanted: TlsWanted | None) -> tuple[Step, ...]:
    """What is wanted of it, by what the host has. Nothing is changed."""
    if wanted is None:
        return ()
    authority, renewed = wanted.papers(await shown_certificate(host))
    return (Step("tls", "have tls", {"authority": authority, "host": renewed}),)


async def _bring(
    host: SshHost,
    wanted: BaseWanted,
    program: Program,
    told: _Told,
    on_progress: OnProgress,
    sending: asyncio.Semaphore | None,
) -> dict[str, object]:
    """The program's bytes on the host, once there is room for them; what to make the version of."""
    file = await program.ready()
    room = {"sent": file.sha256, "sent_bytes": file.size_bytes, "unpacked_bytes": file.unpacked_bytes}
    await told.all(host, [held(wanted.owner), Step("room", "room", room)], untold="hold")
    async with sending or asyncio.Semaphore():
        told.one(await send(host, file, wanted.owner, lambda sent, of: on_progress(host.node, sent, of)))
    return {"sent": file.sha256, "is_archive": file.is_archive}
