#!/usr/bin/env python3
"""Ansible's inventory, from `cluster.yaml`: which hosts there are, in which groups, and what `deploy` says of them.

`nodes` are the nodes over SSH; `redis` the servers or Sentinels of `redis:`; `gateways` those of `nginx.gateways`. What
is on this machine alone is in no group. Groups that the file does not know (`nginx`, `monitoring`) come from a second
inventory. `OLLAMACTL_CONFIG` names the file (./cluster.yaml without it), `OLLAMACTL_STATE` the state folder whose
pinned host keys hold here too.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = REPOSITORY / ".venv" / "bin" / "python"

try:
    from orchestrator.app.paths import default_state
    from orchestrator.core.errors import HostError, SettingsError
    from orchestrator.nodes.onhost import accounts, kept
    from orchestrator.nodes.onhost.program import VERSIONS
    from orchestrator.nodes.systemd_text import render_firewall, render_template
    from orchestrator.settings import ClusterSettings, NodeSettings, parse
    from orchestrator.settings.file import read_text
    from orchestrator.settings.hosts import DeploySettings
    from orchestrator.settings.syntax import host_and_port, ssh_host_and_port
    from orchestrator.store.address import Address, parse_url
except ModuleNotFoundError as missing:
    if PYTHON.exists() and Path(sys.prefix) != PYTHON.parents[1]:
        os.execv(PYTHON, [str(PYTHON), *sys.argv])  # noqa: S606 (the product's own Python, where it is installed)
    sys.exit(f"{missing}: run Ansible with a Python that has ollama-orchestrator, or `make install` in {REPOSITORY}")

NFT = "/usr/sbin/nft"
Hosts = dict[str, dict[str, Any]]


class SecretsElsewhere(dict[str, str]):
    """The environment; secrets that are only where gateways run are stood in for, each by one of its own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(environment)
        self.stood_in: dict[str, str] = {}

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return self.stood_in.setdefault(name, f"secret-of-the-gateways-{name}")


def main(arguments: list[str]) -> int:
    if "--host" in arguments:
        print("{}")  # `--list` has said everything
        return 0
    config = Path(os.environ.get("OLLAMACTL_CONFIG") or "cluster.yaml").absolute()
    state = Path(os.environ.get("OLLAMACTL_STATE") or default_state())
    secrets = SecretsElsewhere(os.environ)
    try:
        settings = parse(read_text(config), str(config), secrets)
        told = inventory(settings, config, state / "known_hosts")
    except SettingsError as wrong:
        print(wrong, file=sys.stderr)
        return 3
    told["all"]["vars"]["ollamactl_environment"] = secrets.stood_in  # for commands here that read the file too
    told["all"]["vars"]["ollamactl_state"] = str(state)
    print(json.dumps(told, indent=2))
    return 0


def inventory(settings: ClusterSettings, config: Path, known_hosts: Path) -> dict[str, Any]:
    """What `--list` answers."""
    nodes = {each.name: node(each, known_hosts) | own(each, settings.deploy) for each in over_ssh(settings.nodes)}
    names = {each["ansible_host"]: name for name, each in nodes.items()}
    address = Address() if settings.redis == "embedded" else parse_url(settings.redis)
    redis = elsewhere((host for host, _ in address.hosts), names)
    gateways = elsewhere((host_and_port(each)[0] for each in settings.nginx.gateways), names)
    return {
        "_meta": {"hostvars": {**gateways, **redis, **nodes}},
        "all": {
            "vars": {
                "ollamactl_config": str(config),
                "ollamactl_command": [sys.executable, "-m", "orchestrator.cli"],
                "ollamactl_source": str(REPOSITORY),
                "ollamactl_endpoints": list(settings.nginx.gateways),
            }
        },
        "nodes": {"hosts": list(nodes), "vars": deployed(settings, config)},
        "redis": {
            "hosts": list(redis),
            "vars": {"redis_master_name": address.master or "ollamactl", "redis_sentinel": bool(address.master)},
        },
        "gateways": {"hosts": list(gateways)},
        "nginx": {"hosts": []},
        "monitoring": {"hosts": []},
    }


def over_ssh(nodes: Iterable[NodeSettings]) -> Iterable[NodeSettings]:
    return (each for each in nodes if each.address != "local" and each.simulate is None)


def node(settings: NodeSettings, known_hosts: Path) -> dict[str, Any]:
    """How Ansible reaches a node: as `ollamactl` does, and by the host key that was pinned for it."""
    host, port = ssh_host_and_port(settings.address)
    login: dict[str, Any] = {"ansible_host": host}
    if port != 22:
        login["ansible_port"] = port
    if settings.user is not None:
        login["ansible_user"] = settings.user
    if settings.key is not None:
        login["ansible_ssh_private_key_file"] = str(settings.key)
    if known_hosts.exists():
        login["ansible_ssh_common_args"] = f"-o 'UserKnownHostsFile=\"{known_hosts}\"' -o StrictHostKeyChecking=yes"
    return login


def own(settings: NodeSettings, deploy: DeploySettings) -> dict[str, Any]:
    """What `deploy` writes on this node: texts that it renders for no other."""
    rules, problem = "", ""
    try:
        unit = render_template(deploy.user, settings.models_dir)
    except ValueError as why:
        raise SettingsError(f"node {settings.name}: models_dir: {why}") from why
    try:
        # The controller asks instances how they are, whatever gateways are named.
        ours = own_address(*ssh_host_and_port(settings.address))
        rules = render_firewall((*deploy.gateways, ours), deploy.ports)
    except HostError as why:  # this node's affair: the role tells it
        problem = str(why)
    return {
        "ollama_models_dir": settings.models_dir,
        "ollama_unit": unit,
        "firewall_text": rules,
        "firewall_problem": problem,
    }


def own_address(host: str, port: int) -> str:
    """The address that this machine reaches a host from. Raises HostError."""
    try:
        family, kind, protocol, _, there = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as way:
            way.connect(there)  # of UDP: no packet is sent
            return str(way.getsockname()[0])
    except OSError as why:
        raise HostError(f"{host}: no way to it from here: {why.strerror or why}; or name `deploy.gateways`") from why


def elsewhere(addresses: Iterable[str], nodes: Mapping[str, str]) -> Hosts:
    """Hosts by name: a node's where it is one, otherwise the address. How one logs in there is ssh's own affair."""
    return {nodes.get(each, each): {"ansible_host": each} for each in addresses if not is_this_machine(each)}


def is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def deployed(settings: ClusterSettings, config: Path) -> dict[str, Any]:
    """What `deploy` brings to every node, in its own words."""
    deploy = settings.deploy
    program = deploy.ollama or ""
    is_url = program.startswith(("https://", "http://"))
    return {
        "ollama_user": deploy.user,
        "ollama_user_comment": accounts.COMMENT,
        "ollama_user_groups": list(accounts.CARDS),
        "ollama_home": accounts.HOME,
        "ollama_folders": {path: f"{mode:04o}" for path, mode in accounts.OURS.items()},
        "ollama_packages": ["stunnel4"] if deploy.tls else [],
        "ollama_versions": VERSIONS,
        "ollama_program": program if is_url or not program else str(config.parent / Path(program).expanduser()),
        "ollama_sha256": deploy.sha256 or "",
        "firewall_enabled": deploy.firewall,
        "firewall_file": kept.RULES,
        "firewall_unit": kept.FIREWALL_UNIT,
        "firewall_unit_text": kept.BOOT_UNIT.format(nft=NFT),
        "firewall_record": kept.LOADED,
        "firewall_nft": NFT,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
