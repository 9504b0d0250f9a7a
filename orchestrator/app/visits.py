"""The nodes of a cluster as commands visit them: this machine by its keeper, hosts over SSH, as long as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from orchestrator.app import deployments, settings_in_use
from orchestrator.app.authority import authorities_of, keep_client, renewed
from orchestrator.app.paths import StatePaths
from orchestrator.app.proposing import Eyes
from orchestrator.core.deployment import Deployment
from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeFacts, NodeName, Placement, PoolName
from orchestrator.fleet.hostbase import (
    BaseWanted,
    Made,
    OnProgress,
    OnStep,
    StepDone,
    TlsWanted,
    again_if_lost,
    base_of,
    make_bases,
    remove_base,
)
from orchestrator.fleet.inventory import LOCAL, Reach, Sight, address_of, look_at, unseen
from orchestrator.fleet.keepers import LocalKeeping
from orchestrator.fleet.spreading import Copied, CopyFailed, Progress, spread
from orchestrator.nodes.host_keys import HostKeys
from orchestrator.nodes.hoststeps import Owner
from orchestrator.nodes.model_copy import CopyTo
from orchestrator.nodes.names import Names
from orchestrator.nodes.program_file import Program, program
from orchestrator.nodes.ssh import SshAddress, SshHost, connected
from orchestrator.nodes.state_lock import read_holder
from orchestrator.nodes.systemd import SystemdKeeper
from orchestrator.nodes.systemd_text import render_firewall, render_template
from orchestrator.nodes.weights import ollama_models_dir
from orchestrator.settings import ClusterSettings, NodeSettings
from orchestrator.settings.syntax import ssh_host_and_port

# For visits that bring no program, and need none to be there.
BRINGS_NONE = Deployment(0, 0, "", ())
Terminates = Callable[[NodeSettings], TlsWanted]
# Which place has claimed the host, with which deployment's number.
OWNER_STEP = "owner"


class Visits:
    """To the nodes of `settings`; hosts are known by the keys of a state folder. Made by `visits`."""

    def __init__(
        self, settings: ClusterSettings, paths: StatePaths, program: Program | None, owner: Owner, *, take_over: bool
    ) -> None:
        self._settings, self._paths = settings, paths
        self._program, self._owner, self._take_over = program, owner, take_over
        self.reach = Reach(HostKeys(paths.known_hosts), settings.ssh)
        self._nodes = {NodeName(each.name): each for each in settings.hosts}

    # --- looking ------------------------------------------------------------------------------------------------------

    def eyes(self) -> Eyes:
        digest = None if self._program is None else self._program.digest
        return Eyes(self._look, self.marks, self._lacks, digest)

    def connected(self, node: NodeName) -> AbstractAsyncContextManager[SshHost]:
        """A host, for as long as the block runs. Raises HostError."""
        return connected(address_of(self._nodes[node]), self.reach.keys, self.reach.waits)

    @asynccontextmanager
    async def keeper(self, node: NodeName) -> AsyncIterator[SystemdKeeper]:
        """Who keeps a host's instances, connected for as long as the block runs."""
        keeper = SystemdKeeper(node, partial(self.connected, node), user=self._settings.deploy.user)
        running = asyncio.create_task(keeper.run(), name=f"keeper of {node}")
        try:
            yield keeper
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def marks(self, node: NodeSettings) -> Mapping[str, str]:
        """What instances of a node say they are, by unit. Raises HostError."""
        if node.address != LOCAL:
            async with self.keeper(NodeName(node.name)) as keeper:
                return await keeper.marks()
        if read_holder(self._paths.root) is None:
            return {}  # no cluster runs from here, and so nothing of it
        return await LocalKeeping(self._paths.keeper_socket).marks()

    async def facts(self) -> dict[NodeName, NodeFacts]:
        """Hosts as they are now; those that cannot be reached are left out."""
        sights = await asyncio.gather(*(self._look(each) for each in self._nodes.values()))
        return {each.node: each.facts for each in sights if each.facts is not None}

    async def _look(self, node: NodeSettings) -> Sight:
        name = NodeName(node.name)
        try:
            return Sight(name, await look_at(node, ollama_models_dir(), self.reach))
        except HostError as why:
            return unseen(name, why)

    def wanted(self, node: NodeName) -> BaseWanted:
        """What a host is to have, but for what ends TLS there. Raises HostError."""
        return self._wanted(self._nodes[node])

    def address(self, node: NodeName) -> SshAddress:
        return address_of(self._nodes[node])

    async def _lacks(self, node: NodeSettings) -> Sequence[str]:
        async with self.connected(NodeName(node.name)) as host:
            steps = await base_of(host, self._wanted(node, self._tls(makes=False)))
        return [in_words(each) for each in steps if each.is_changed and not is_formal(each)]

    # --- changing -----------------------------------------------------------------------------------------------------

    async def make_bases(self, on_step: OnStep, on_progress: OnProgress, nodes: Sequence[NodeName]) -> tuple[Made, ...]:
        """Have each of these hosts' base made; what stops one of them is told of it, and stops no other."""
        tls = self._tls(makes=True)
        asked = [(address_of(self._nodes[each]), self._wanted(self._nodes[each], tls)) for each in nodes]
        return await make_bases(asked, self.reach, on_step=on_step, on_progress=on_progress)

    async def remove_base(self, node: NodeName, *, with_models: bool, on_step: OnStep) -> None:
        """Take everything of ours from a host. Raises HostError."""
        wanted = self._wanted(self._nodes[node])

        async def remove(host: SshHost) -> None:
            await remove_base(host, wanted, with_models=with_models, on_step=on_step)

        await again_if_lost(address_of(self._nodes[node]), self.reach, remove)

    async def spread(
        self,
        placements: Sequence[Placement],
        facts: Mapping[NodeName, NodeFacts],
        on_progress: Callable[[Progress], None],
    ) -> tuple[Copied | CopyFailed, ...]:
        """Have hosts copy from each other what their instances need and one of them has."""
        had = {canonical_model_name(model.name) for node in facts.values() for model in node.models}
        wanted = {
            node: list(dict.fromkeys(pool for pool in _pools_on(node, placements) if canonical_model_name(pool) in had))
            for node in self._nodes
            if node in facts
        }
        rate = self._settings.deploy.copy_mib_s
        names = Names()
        await names.find_all((node, ssh_host_and_port(self._nodes[node].address)[0]) for node in wanted)

        def copy_to(node: NodeName) -> CopyTo:
            host, user = self._nodes[node], self._settings.deploy.user
            return CopyTo(names.known(ssh_host_and_port(host.address)[0]), host.models_dir, user)

        return await spread(wanted, facts, self.connected, copy_to, mib_s=rate, on_progress=on_progress)

    def _tls(self, *, makes: bool) -> Terminates | None:
        """What hosts are to end TLS with, by their settings; None: they shall not. Raises HostError."""
        if not self._settings.deploy.tls:
            return None
        authorities = authorities_of(self._paths, self._settings, makes=makes)
        if authorities is None:  # a look alone: whatever is there is not of the one that is to be
            return lambda node: TlsWanted(lambda shown: ("", ""))
        if makes:
            keep_client(self._paths, authorities)
        return lambda node: TlsWanted(lambda shown: self._papers(node, shown))

    def _papers(self, node: NodeSettings, shown: str) -> tuple[str, str | None]:
        """By the authority as it is now: another may have come since the deployment began. Raises HostError."""
        authorities = authorities_of(self._paths, self._settings, makes=True)
        assert authorities is not None
        return authorities.trusted, renewed(authorities, node, shown)[1] or None

    def _wanted(self, node: NodeSettings, tls: Terminates | None = None) -> BaseWanted:
        deploy = self._settings.deploy

        def let_in(ours: str) -> str:
            """Gateways, and us: the controller asks instances how they are."""
            return render_firewall((*deploy.gateways, ours), deploy.ports)

        return BaseWanted(
            user=deploy.user,
            models_dir=node.models_dir,
            program=self._program,
            unit=_template(node, deploy.user),
            firewall=let_in if deploy.firewall else None,
            owner=self._owner,
            take_over=self._take_over,
            tls=None if tls is None else tls(node),
        )


async def visits(
    settings: ClusterSettings, paths: StatePaths, *, take_over: bool = False, of: Deployment | None = None
) -> Visits:
    """Ways to the nodes of `settings`, with the program that they name, or that `of` had: hosts keep those of before.

    Raises HostError where the program cannot be used.
    """
    paths.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    deploy = settings.deploy
    folder = paths.root / "programs"
    if of is not None:
        found = Program(deploy.ollama or "", of.program, folder) if of.program else None
    else:
        found = None if deploy.ollama is None else await program(deploy.ollama, deploy.sha256, folder)
    current = deployments.current(paths)
    # The number in force, not the next one: until that is written down, the controller acts by this one.
    owner = Owner(settings_in_use.owner(paths), current.number if current is not None else 0, deployments.who())
    return Visits(settings, paths, found, owner, take_over=take_over)


def _pools_on(node: NodeName, placements: Sequence[Placement]) -> list[PoolName]:
    return [each.pool for each in placements if each.node == node]


def is_formal(step: StepDone) -> bool:
    """Whether it only writes down whose the host is, as every deployment does."""
    return step.step == OWNER_STEP and "taken over" not in step.words


def in_words(step: StepDone) -> str:
    return f"{step.step}: {step.words}"


def _template(node: NodeSettings, user: str) -> str:
    try:
        return render_template(user, node.models_dir)
    except ValueError as why:
        raise HostError(f"{node.name}: models_dir: {why}") from why
