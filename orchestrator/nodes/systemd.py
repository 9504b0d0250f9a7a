"""The instances of one host, kept by its systemd and spoken to over SSH: what the keeper is on this machine.

One connection a host, made anew whenever it is lost. What runs there goes on meanwhile, also while nobody controls it.
Whether an instance is to be there is decided elsewhere, and so is who may change what.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import TypeAdapter

from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeName
from orchestrator.nodes.keeper_units import Exit, Unit, UnitEvent, UnitStatus
from orchestrator.nodes.onhost.changes import STARTS_S, STOPS_S
from orchestrator.nodes.onhost.policy import LOGS
from orchestrator.nodes.onhost.units import ANSWERS_S, unit_of
from orchestrator.nodes.sending import as_root
from orchestrator.nodes.ssh import SshError, SshHost
from orchestrator.nodes.systemd_link import STEP, Link, linked
from orchestrator.nodes.systemd_looks import Look, News, happened, read_looks, settled, status_of
from orchestrator.nodes.systemd_text import USER, environment_text, instance_of, name_of

log = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_MOST_S = 0.5, 30.0
# For a first connection or one that was just lost; one that failed is known to be none, and is not waited for.
LINK_WITHIN_S = 20.0
# Of a request, beyond what the host itself waits for: the network's part.
SLACK_S = 10.0


@dataclass(frozen=True, slots=True)
class Held:
    """The processes of one unit, and what they hold of the host's memory."""

    pids: frozenset[int]
    ram_bytes: int


_HELD: TypeAdapter[dict[str, Held]] = TypeAdapter(dict[str, Held])


class SystemdKeeper:
    """Fulfils `Keeping` for one host while `run` does; every method raises HostError, in one line with its name.

    Units are those of instances (`engine-…`): their command is the template's, their environment is their own. `user`
    is whom the template is to have them run as.
    """

    def __init__(
        self, node: NodeName, connect: Callable[[], AbstractAsyncContextManager[SshHost]], *, user: str = USER
    ) -> None:
        self.node = node
        self.user = user
        self._connect = connect
        self._link: Link | None = None
        self._problem: HostError | None = None  # why there is no connection, once that is known
        self._decided = asyncio.Event()  # there is one, or there is a reason
        self._known: dict[str, Look] | None = None  # None: never seen
        self._exits: dict[str, Exit] = {}
        self._listeners: set[asyncio.Queue[UnitEvent | HostError]] = set()

    # --- connected --------------------------------------------------------------------------------------------------

    @property
    def problem(self) -> str:
        """Why the host cannot be reached; empty: it can, or that is not known yet."""
        return str(self._problem or "")

    async def run(self) -> None:
        """Hold the connection, until cancelled."""
        wait_s = RETRY_FIRST_S
        while True:
            was_up = False
            try:
                async with self._connect() as host, linked(host, self._seen_last()) as link:
                    await link.run(partial(self._on_news, link))
            except HostError as error:
                was_up = self._link is not None
                self._lost(error, was_up=was_up)
            finally:
                self._link = None
                if self._problem is None:  # it may be back at once
                    self._decided.clear()
            wait_s = RETRY_FIRST_S if was_up else min(2 * wait_s, RETRY_MOST_S)
            # Hosts that went away together must not all come back in the same moment.
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 (no secret)

    def _lost(self, error: HostError, *, was_up: bool) -> None:
        if was_up:
            log.warning("%s", error)
            for each in self._listeners:
                each.put_nowait(error)
        else:
            self._problem = error
            self._decided.set()

    def _seen_last(self) -> dict[str, dict[str, Any]]:
        return {name: {"pid": look.pid, "run": look.run} for name, look in (self._known or {}).items()}

    async def _linked(self) -> Link:
        try:
            async with asyncio.timeout(LINK_WITHIN_S):
                while self._link is None:
                    await self._decided.wait()
                    if self._link is None and self._problem is not None:
                        raise SshError(self.node, STEP, _message(self._problem), self._problem.barrier)
        except TimeoutError as error:
            raise SshError(self.node, STEP, f"no connection within {LINK_WITHIN_S:g} s") from error
        return self._link

    async def _ask(self, verb: str, wait_s: float = ANSWERS_S, **about: Any) -> Any:
        return await (await self._linked()).ask(verb, wait_s + SLACK_S, **about)

    # --- units ------------------------------------------------------------------------------------------------------

    async def start(self, unit: Unit) -> None:
        """Have it run with its environment, also after the host was restarted; nothing changes where it does.

        Where it says when it is ready, it listens there when this returns. One that does not start is not there.
        """
        try:
            instance, text = instance_of(unit.name), environment_text(unit.env)
        except ValueError as error:
            raise SshError(self.node, STEP, str(error)) from error
        port = int(unit.ready.rpartition(":")[2]) if unit.ready is not None else None
        await self._ask(
            "start",
            STARTS_S + 2 * STOPS_S + unit.ready_timeout_s,
            instance=instance,
            text=text,
            environment=dict(unit.env),
            port=port,
            ready_s=unit.ready_timeout_s,
            user=self.user,
        )

    async def stop(self, name: str) -> None:
        """Have no unit of this name; all processes of its control group have ended when this returns."""
        await self._ask("stop", 2 * STOPS_S, instance=self._instance(name))

    async def restart(self, name: str) -> None:
        """Have its processes end and start, with the environment that it has."""
        await self._ask("restart", STARTS_S + STOPS_S, instance=self._instance(name))

    async def list(self) -> tuple[UnitStatus, ...]:
        """The units of instances there: those that run, and those that were to run and do not."""
        looks = read_looks(await self._ask("list"))
        now_unix_ms = _now_unix_ms()
        return tuple(status_of(each, look, self._exits.get(each), now_unix_ms) for each, look in sorted(looks.items()))

    async def marks(self) -> Mapping[str, str]:
        """What running processes were started as (OLLAMACTL_INSTANCE in their environment), by unit."""
        return {name_of(instance): mark for instance, mark in (await self._ask("marks")).items()}

    async def listens(self, name: str, port: int) -> bool:
        """Whether a process of this unit's control group listens on the port."""
        return bool(await self._ask("listens", instance=self._instance(name), port=port))

    async def held_bytes(self) -> Mapping[str, Held]:
        """By unit, the processes of its control group and the host's memory they hold: what is ours, not others'."""
        held = _HELD.validate_python(await self._ask("held"))
        return {name_of(instance): each for instance, each in held.items()}

    async def events(self) -> AsyncGenerator[UnitEvent, None]:
        """What happens to units from now on. Raises HostError when the connection is lost; asked again, it goes on
        with what happened meanwhile."""
        news: asyncio.Queue[UnitEvent | HostError] = asyncio.Queue()
        self._listeners.add(news)
        try:
            await self._linked()
            while True:
                each = await news.get()
                if isinstance(each, HostError):
                    raise SshError(self.node, STEP, _message(each)) from each
                yield each
        finally:
            self._listeners.discard(news)

    async def logs(self, name: str, *, lines: int, follow: bool) -> AsyncIterator[str]:
        """The last `lines` of what the unit and systemd about it wrote; with `follow` also what comes."""
        words = ["journalctl", "--no-pager", "--quiet", "--output=cat", f"--lines={lines}"]
        words += ["--follow"] if follow else []
        instance = self._instance(name)
        link, unit = await self._linked(), unit_of(instance)
        asked = {"instance": instance, "lines": lines, "follow": follow}
        argv, given = await as_root(link.host, [*words, f"--unit={unit}"], LOGS, **asked)
        async with link.host.started(argv, step="logs", given=given) as process:
            while line := await process.stdout.readline():
                yield line.decode(errors="replace").rstrip("\n")
            complaint = (await process.stderr.read()).decode(errors="replace").strip()
            await process.wait_closed()
            if process.exit_status != 0:
                raise SshError(self.node, "logs", f"logs of {unit}: {complaint or 'the connection was lost'}")

    def _instance(self, name: str) -> str:
        try:
            return instance_of(name)
        except ValueError as error:
            raise SshError(self.node, STEP, str(error)) from error

    def _on_news(self, link: Link, news: News) -> None:
        if self._link is None:  # its first news are all that is there: now it is known to be up
            self._link, self._problem = link, None
            self._decided.set()
        before, self._known = self._known, settled(self._known or {}, news.looks)
        if before is None:
            return
        for event in happened(before, news.looks, news.ends, _now_unix_ms()):
            if event.exit is not None:
                self._exits[instance_of(event.unit)] = event.exit
            for each in self._listeners:
                each.put_nowait(event)


def _message(error: HostError) -> str:
    """Its text without the node's name, which comes before it again."""
    return error.message if isinstance(error, SshError) else str(error)


def _now_unix_ms() -> int:
    return time.time_ns() // 1_000_000
