"""Certificates of a cluster's own authority kept good while it runs: this machine's, and those that hosts show.

Each controller keeps its machine's; the one that leads those of the hosts, where `ollamactl deploy` has brought some.
Nothing is closed for it: new connections show the new ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from orchestrator.app import deployments, settings_in_use
from orchestrator.app.authority import authorities_of, keep_client, renewed
from orchestrator.app.held_up import HeldUp
from orchestrator.app.lasting import EndGauges, of_files, of_servers
from orchestrator.app.paths import StatePaths
from orchestrator.app.rotating import LOOK_EVERY_S, Rotating
from orchestrator.app.speaking_tls import contexts_of, papers_of
from orchestrator.core.certificates import Lasting
from orchestrator.core.errors import HostError, OrchestratorError, StoreError
from orchestrator.fleet.fenced import Leading
from orchestrator.fleet.inventory import Reach, address_of
from orchestrator.nodes.authorities import Authorities
from orchestrator.nodes.authority import ends_in, held_in, read_certificate
from orchestrator.nodes.host_keys import HostKeys
from orchestrator.nodes.hoststeps import Owner, renew_certificate, shown_certificate
from orchestrator.nodes.ssh import connected
from orchestrator.settings import ClusterSettings, NodeSettings
from orchestrator.store.members import Met

log = logging.getLogger(__name__)

# After a look that failed as a whole: a file of this machine cannot be read.
AFTER_TROUBLE_S: Final = 30.0
# After one that ended where it was not known who leads, or Redis was away: often for a moment, and each step of another
# authority waits for a whole look. Hosts are not asked before that is known.
AFTER_STORE_S: Final = 3.0
# Hosts whose instances behind TLS do not answer: a look is a connection over SSH.
SILENT_EVERY_S: Final = 20.0


class Certificates:
    """Of one controller. `leads`: whether it is the one that acts on hosts; `leading` knows as which. `met`: who else
    works with the same Redis; `held_up`: who tells them whom a change of the authority waits for. `silent`: hosts whose
    instances do not answer, maybe for lack of a certificate. `papers`: what this machine's gateways have, for those."""

    def __init__(
        self,
        paths: StatePaths,
        settings: Callable[[], ClusterSettings],
        leads: Callable[[], bool],
        leading: Leading,
        met: Callable[[], Awaitable[tuple[Met, ...]]],
        held_up: HeldUp,
        silent: Callable[[], frozenset[str]],
    ) -> None:
        self._paths, self._settings, self._leads, self._leading = paths, settings, leads, leading
        self._held_up, self._silent = held_up, silent
        self._rotating = Rotating(paths, settings, leading, met, held_up)
        self._contexts = contexts_of(paths, settings)
        self._hosts: dict[str, int] = {}  # by name, until when what each was seen to show lasts
        self._troubles: dict[str, str] = {}  # by host, what was said last
        self._gauges = EndGauges()
        self._stirred = asyncio.Event()
        self._said: dict[str, str] = {}  # by look
        self.papers = ""

    def stir(self) -> None:
        """Something may be otherwise: look at once."""
        self._stirred.set()

    async def run(self) -> None:
        """Until cancelled: all of them now and then, those of hosts that do not answer more often."""
        until_s = 0.0
        while True:
            is_whole = self._stirred.is_set() or time.monotonic() >= until_s
            self._stirred.clear()
            if is_whole:
                until_s = time.monotonic() + await self._try("all", self.look)
            else:
                await self._try("silent", self.look_at_silent)
            left_s = max(0.0, min(until_s - time.monotonic(), SILENT_EVERY_S))
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._stirred.wait()

    async def _try(self, what: str, look: Callable[[], Awaitable[float]]) -> float:
        """In how many seconds to look again; what is wrong is said once."""
        problem = ""
        try:
            again_s = await look()
        except OrchestratorError as why:
            again_s = AFTER_STORE_S if isinstance(why, StoreError) else AFTER_TROUBLE_S
            problem = str(why)
            if problem != self._said.get(what):
                log.error("%s", problem)
        self._said[what] = problem
        return again_s

    async def look_at_silent(self) -> float:
        """Have hosts whose instances do not answer have good ones: theirs may be what they lack. Raises
        OrchestratorError."""
        settings, silent = self._settings(), self._silent()
        hosts = [each for each in settings.hosts if each.name in silent]
        if hosts and self._leads() and settings.deploy.tls:
            authorities = await asyncio.to_thread(authorities_of, self._paths, settings)
            if authorities is not None:
                await asyncio.gather(*(self._keep(node, authorities) for node in hosts))
                await self._tell(settings)
        return SILENT_EVERY_S

    async def look(self) -> float:
        """Have all of them be good now, those of hosts that cannot be reached left out, and tell how long they last.

        Returns in how many seconds to look again. Raises OrchestratorError.
        """
        settings = self._settings()
        try:
            return await self._keep_all(settings)
        finally:
            await self._tell(settings)

    async def _keep_all(self, settings: ClusterSettings) -> float:
        is_leader = self._leads()
        leads = is_leader and settings.deploy.tls
        hosts = settings.hosts if leads else ()
        self._hosts = {name: self._hosts[name] for name in {each.name for each in hosts} & self._hosts.keys()}
        authorities = await asyncio.to_thread(authorities_of, self._paths, settings)
        if not is_leader:
            self._held_up.let_go()
        elif authorities is None or not leads:  # nothing is changed
            await self._held_up.by({})
        if authorities is None:
            return LOOK_EVERY_S
        if why := await asyncio.to_thread(keep_client, self._paths, authorities):
            log.info("this machine's certificate was made: %s", why)
        self.papers = authorities.held.words
        if leads:
            self._leading.check()
        kept = await asyncio.gather(*(self._keep(node, authorities) for node in hosts))
        behind = {node.name: why for node, why in zip(hosts, kept, strict=True) if why}
        return await self._rotating.go_on(authorities, behind) if leads else LOOK_EVERY_S

    async def _tell(self, settings: ClusterSettings) -> None:
        files = await asyncio.to_thread(of_files, self._paths, settings)
        shown = await of_servers(self._contexts, [("server", each[0], each) for each in papers_of(settings)])
        self._gauges.tell([*files, *shown, *(Lasting("host", *each) for each in self._hosts.items())])

    async def _keep(self, node: NodeSettings, authorities: Authorities) -> str:
        """Why it has not what it is to have; '': it has, or is none that has any of it."""
        settings, keys = self._settings(), HostKeys(self._paths.known_hosts)
        try:
            async with connected(address_of(node), keys, Reach(keys, settings.ssh).waits) as host:
                shown = await shown_certificate(host)
                held, has = held_in(shown), read_certificate(shown)
                if has is not None:
                    self._hosts[node.name] = has.until_unix_s
                if not shown:
                    return ""  # what was never deployed there is the next deployment's
                why, pem = renewed(authorities, node, shown)
                if why or held is None or held.trusts != authorities.held.trusts:
                    self._leading.check()
                    await renew_certificate(host, self._owner(), authorities.trusted, pem or None)
                    why = why or "others are trusted, or its unit or settings were damaged"
                    log.info("%s: what ends TLS there was renewed: %s", node.name, why)
                if pem:
                    self._hosts[node.name] = ends_in(pem.encode())[0]
        except HostError as error:
            if self._troubles.get(node.name) != str(error):  # while another authority comes, each three seconds
                log.warning("%s", error)
            self._troubles[node.name] = str(error)
            return str(error)
        self._troubles.pop(node.name, None)
        return ""

    def _owner(self) -> Owner:
        current = deployments.current(self._paths)
        number = current.number if current is not None else 0
        return Owner(settings_in_use.owner(self._paths), number, leader=self._leading.term)
