"""What the nodes of the settings have: probed here or over SSH, or played where the settings say `simulate`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.cards import Card, parse_cards
from orchestrator.core.errors import Barrier, HostError
from orchestrator.core.model import Accelerator, NodeFacts, NodeName, Placement
from orchestrator.nodes.host_keys import HostKeys
from orchestrator.nodes.probe import Asked, probe
from orchestrator.nodes.remote_probe import look_once
from orchestrator.nodes.sending import RefusedError
from orchestrator.nodes.ssh import SshAddress, SshWaits, connected
from orchestrator.settings import NodeSettings, SshSettings
from orchestrator.settings.syntax import ssh_host_and_port

LOCAL = "local"
# A handshake costs some milliseconds of CPU: more of them at once make each late, and none sooner.
LOOKS_AT_ONCE = 64

# What a driver with nothing running keeps of a card for itself; a 4090 under Linux shows about 0.4 GiB used.
SIMULATED_RESERVED_BYTES = 400 * 2**20


async def take_inventory(nodes: tuple[NodeSettings, ...], models_dir: Path) -> tuple[NodeFacts, ...]:
    """Facts of every node that is this machine. A sick driver is a sentence in `problems`, never an error here."""
    return tuple([await _facts(node, models_dir) for node in nodes if node.address == LOCAL])


@dataclass(frozen=True, slots=True)
class Reach:
    """What it takes to speak to hosts: the keys they are known by, and how long they may take."""

    keys: HostKeys
    ssh: SshSettings

    @property
    def waits(self) -> SshWaits:
        return SshWaits(connect_s=self.ssh.connect_s, step_s=self.ssh.step_s)


@dataclass(frozen=True, slots=True)
class Sight:
    """A node as it was last seen: its facts, or in one line why there are none.

    `is_refused`: it answers, and what it was restricted to does nothing for this ollamactl. `barrier`: of one that was
    not seen.
    """

    node: NodeName
    facts: NodeFacts | None
    error: str = ""
    is_refused: bool = False
    barrier: Barrier = Barrier.REACHED


def unseen(node: str, why: HostError) -> Sight:
    """What is known of a node that could not be looked at."""
    return Sight(NodeName(node), None, str(why), isinstance(why, RefusedError), why.barrier)


def address_of(node: NodeSettings) -> SshAddress:
    """Where a node that is not this machine is reached."""
    host, port = ssh_host_and_port(node.address)
    return SshAddress(NodeName(node.name), host, port, node.user, node.key)


async def look_at_all(nodes: Iterable[NodeSettings], models_dir: Path, reach: Reach) -> tuple[Sight, ...]:
    """Every node once, all at the same time; what one of them suffers is told in its sight and delays no other."""
    at_once = asyncio.Semaphore(LOOKS_AT_ONCE)

    async def look(node: NodeSettings) -> Sight:
        name = NodeName(node.name)
        try:
            async with at_once:
                return Sight(name, await look_at(node, models_dir, reach))
        except HostError as error:
            return unseen(name, error)

    return tuple(await asyncio.gather(*(look(node) for node in nodes)))


async def look_at(node: NodeSettings, models_dir: Path, reach: Reach) -> NodeFacts:
    """One node's facts now. Raises HostError; nothing else that a host does gets past this."""
    if node.address == LOCAL:
        return await _facts(node, models_dir)
    async with connected(address_of(node), reach.keys, reach.waits) as host:
        return await look_once(host, Asked(NodeName(node.name), node.models_dir, most=1))


async def _facts(node: NodeSettings, models_dir: Path) -> NodeFacts:
    name = NodeName(node.name)
    here = await asyncio.to_thread(probe, name, models_dir)
    return here if node.simulate is None else simulated_facts(name, parse_cards(node.simulate), here)


def blind_spots(facts: Sequence[NodeFacts], current: Iterable[Placement]) -> tuple[str, ...]:
    """Nodes whose inventory is not to be planned by, a sentence each: a sick driver hides GPUs that instances use.

    A driver that complains of something may have lost sight of cards that work on; to move what runs there would cost
    every model load and help nobody. A card that is gone from a healthy driver's list is gone.
    """
    by_node = {each.node: each for each in facts}
    seen = {card.uuid for node in facts for card in node.accelerators}
    blind: dict[str, str] = {}
    for placement in current:
        node = by_node.get(placement.node)
        hidden = [uuid for uuid in placement.accelerators if uuid not in seen]
        if node is not None and node.problems and hidden:
            told = f"{node.node}: GPUs that instances use are not shown ({', '.join(node.problems)}); nothing is moved"
            blind[node.node] = told
    return tuple(blind.values())


def simulated_facts(name: NodeName, cards: tuple[Card, ...], here: NodeFacts) -> NodeFacts:
    """A host with `cards` in it; memory and disk are this machine's, which is what runs the simulation."""
    accelerators = tuple(
        Accelerator(
            uuid=f"SIM-{name}-{index}",
            index=index,
            name=card.name,
            vram_total_bytes=card.vram_bytes,
            vram_used_bytes=SIMULATED_RESERVED_BYTES,
            vram_free_bytes=card.vram_bytes - SIMULATED_RESERVED_BYTES,
            is_simulated=True,
        )
        for index, card in enumerate(cards)
    )
    return NodeFacts(
        node=name,
        hostname=here.hostname,
        cpu_model=here.cpu_model,
        cpu_count=here.cpu_count,
        ram_total_bytes=here.ram_total_bytes,
        ram_free_bytes=here.ram_free_bytes,
        disk_free_bytes=here.disk_free_bytes,
        accelerators=accelerators,
        is_simulated=True,
    )
