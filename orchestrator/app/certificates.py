"""Certificates of a cluster's own authority kept good while it runs: this machine's, and those that hosts show.

Each controller keeps its machine's; the one that leads those of the hosts, where `ollamactl deploy` has brought some.
Nothing is closed for it: new connections show the new ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from orchestrator.app import deployments, settings_in_use
from orchestrator.app.authority import authority_of, contexts_of, keep_client, papers_of, renewed
from orchestrator.app.lasting import EndGauges, of_files, of_servers
from orchestrator.app.paths import StatePaths
from orchestrator.core.certificates import Lasting
from orchestrator.core.errors import HostError, OrchestratorError
from orchestrator.fleet.fenced import Leading
from orchestrator.fleet.inventory import Reach, address_of
from orchestrator.nodes.authority import Authority, ends_in, read_certificate
from orchestrator.nodes.host_keys import HostKeys
from orchestrator.nodes.hoststeps import Owner, renew_certificate, shown_certificate
from orchestrator.nodes.ssh import connected
from orchestrator.settings import ClusterSettings, NodeSettings

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 3600.0


class Certificates:
    """Of one controller. `leads`: whether it is the one that acts on hosts; `leading` knows as which."""

    def __init__(
        self,
        paths: StatePaths,
        settings: Callable[[], ClusterSettings],
        leads: Callable[[], bool],
        leading: Leading,
    ) -> None:
        self._paths, self._settings, self._leads, self._leading = paths, settings, leads, leading
        self._contexts = contexts_of(paths, settings)
        self._hosts: dict[str, int] = {}  # by name, until when what each was seen to show lasts
        self._gauges = EndGauges()
        self._stirred = asyncio.Event()

    def stir(self) -> None:
        """Something may be otherwise: look at once."""
        self._stirred.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._stirred.clear()
            try:
                await self.look()
            except OrchestratorError as why:
                log.error("%s", why)
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._stirred.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Have all of them be good now, those of hosts that cannot be reached left out, and tell how long they last.

        Raises OrchestratorError.
        """
        settings = self._settings()
        try:
            await self._keep_all(settings)
        finally:
            await self._tell(settings)

    async def _keep_all(self, settings: ClusterSettings) -> None:
        hosts = settings.hosts if self._leads() and settings.deploy.tls else ()
        self._hosts = {name: self._hosts[name] for name in {each.name for each in hosts} & self._hosts.keys()}
        authority = await asyncio.to_thread(authority_of, self._paths, settings)
        if authority is None:
            return
        if why := await asyncio.to_thread(keep_client, self._paths, authority):
            log.info("this machine's certificate was made: %s", why)
        await asyncio.gather(*(self._keep(node, authority) for node in hosts))

    async def _tell(self, settings: ClusterSettings) -> None:
        files = await asyncio.to_thread(of_files, self._paths, settings)
        shown = await of_servers(self._contexts, [("server", each[0], each) for each in papers_of(settings)])
        self._gauges.tell([*files, *shown, *(Lasting("host", *each) for each in self._hosts.items())])

    async def _keep(self, node: NodeSettings, authority: Authority) -> None:
        settings, keys = self._settings(), HostKeys(self._paths.known_hosts)
        try:
            async with connected(address_of(node), keys, Reach(keys, settings.ssh).waits) as host:
                shown = await shown_certificate(host)
                has = read_certificate(shown)
                if has is not None:
                    self._hosts[node.name] = has.until_unix_s
                if has is None or has.authority != authority.id:
                    return  # what was never deployed there, or to another authority, is the next deployment's
                why, pem = renewed(authority, node, shown)
                if why:
                    self._leading.check()
                    await renew_certificate(host, self._owner(), pem)
                    self._hosts[node.name] = ends_in(pem.encode())[0]
                    log.info("%s: its certificate was renewed: %s", node.name, why)
        except HostError as error:
            log.warning("%s", error)

    def _owner(self) -> Owner:
        current = deployments.current(self._paths)
        number = current.number if current is not None else 0
        return Owner(settings_in_use.owner(self._paths), number, leader=self._leading.term)
