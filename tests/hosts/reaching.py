"""What tests say to a host, and how they get to know it."""

from __future__ import annotations

from pathlib import Path

import asyncssh

from orchestrator.core.model import NodeName
from orchestrator.fleet.inventory import Reach
from orchestrator.nodes.host_keys import HostKeys
from orchestrator.nodes.ssh import SshAddress
from orchestrator.settings import NodeSettings, SshSettings
from tests.hosts.machines import Machine, Network

MODELS = "/var/lib/ollama/models"


def known(folder: Path, *machines: Machine) -> HostKeys:
    """Host keys as `nodes add` would have pinned them."""
    keys = HostKeys(folder / "known_hosts")
    for each in machines:
        keys.pin(each.address, 22, asyncssh.import_public_key(each.host_key))
    return keys


def address(net: Network, machine: Machine, user: str = "ops", key: Path | None = None) -> SshAddress:
    return SshAddress(NodeName(machine.name), machine.address, 22, user, key or net.key)


def node(net: Network, machine: Machine, user: str = "ops", key: Path | None = None) -> NodeSettings:
    return NodeSettings(name=machine.name, address=machine.address, user=user, key=key or net.key, models_dir=MODELS)


def reach(keys: HostKeys, look_s: float = 0.2, connect_s: float = 5.0) -> Reach:
    return Reach(keys, SshSettings(look_s=look_s, connect_s=connect_s))
