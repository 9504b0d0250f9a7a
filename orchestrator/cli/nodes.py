"""`ollamactl nodes`, `gpus` and `nodes add`: what the hosts have, and one more of them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.table import Table

from orchestrator.app.paths import StatePaths
from orchestrator.cli.looking import hosts_looked_at
from orchestrator.cli.output import console, draw, errors, fail, literal, table
from orchestrator.core.errors import HostError, SettingsError
from orchestrator.core.model import Accelerator, NodeFacts, NodeName
from orchestrator.fleet.inventory import LOCAL, Reach, Sight, address_of, look_at_all
from orchestrator.nodes.host_keys import HostKeys, fingerprint
from orchestrator.nodes.probe import Asked
from orchestrator.nodes.remote_probe import look_once
from orchestrator.nodes.ssh import Rights, SshAddress, connected, shown_key
from orchestrator.nodes.weights import ollama_models_dir
from orchestrator.settings import NodeSettings, SshSettings
from orchestrator.settings.adding import add_node

GIB = 2**30


# --- nodes, gpus -----------------------------------------------------------------------------------------------------


def run_nodes(state: Path, config: Path | None, *, as_json: bool) -> int:
    """Every host with what it has. Exit code 1 where one could not be seen."""
    return _run(state, config, _nodes_table, as_json=as_json)


def run_gpus(state: Path, config: Path | None, *, as_json: bool) -> int:
    """Every accelerator with what is free on it. Exit code 1 where a host could not be seen."""
    return _run(state, config, _gpus_table, as_json=as_json)


def _run(state: Path, config: Path | None, drawn: Callable[[Iterable[NodeFacts]], Table], *, as_json: bool) -> int:
    settings = hosts_looked_at(config, state).settings
    sights = asyncio.run(look_at_all(settings.nodes, ollama_models_dir(), _reach(state, settings.ssh)))
    if as_json:
        click.echo(json.dumps([_told(each) for each in sights], indent=2))
    else:
        if seen := [each.facts for each in sights if each.facts is not None]:
            shown = drawn(seen)
            if shown.row_count:
                draw(shown)
            else:
                where = ", ".join(each.node for each in seen)
                console.print(f"no GPU on {literal(where)}: the CPU serves there", soft_wrap=True)
        _tell_problems(sights)
    return 1 if any(each.facts is None for each in sights) else 0


def _reach(state: Path, ssh: SshSettings) -> Reach:
    return Reach(HostKeys(StatePaths(state).known_hosts), ssh)


def _told(sight: Sight) -> dict[str, object]:
    if sight.facts is None:
        return {"node": sight.node, "error": sight.error}
    return asdict(sight.facts)


def _tell_problems(sights: Iterable[Sight]) -> None:
    for sight in sights:
        for problem in sight.facts.problems if sight.facts is not None else ():
            console.print(f"[yellow]{literal(sight.node)}: {literal(problem)}[/yellow]", soft_wrap=True)
    for sight in sights:
        if sight.facts is None:
            errors.print(f"[red]error:[/red] {literal(sight.error)}", soft_wrap=True)


def _nodes_table(nodes: Iterable[NodeFacts]) -> Table:
    drawn = table("Node", "CPUs", "Memory free", "Disk free", "Driver", "CUDA", "GPUs", "Ollama", "Models")
    for each in nodes:
        drawn.add_row(
            literal(each.node) + (" (simulated)" if each.is_simulated else ""),
            str(each.cpu_count),
            f"{_gib(each.ram_free_bytes)} of {_gib(each.ram_total_bytes)} GiB",
            f"{_gib(each.disk_free_bytes)} GiB",
            each.driver_version or "-",
            each.cuda_version or "-",
            literal(_counted(each.accelerators)),
            literal(", ".join(_server(server.user, server.port, is_ours=server.is_ours) for server in each.ollamas))
            or "-",
            str(len(each.models)),
        )
    return drawn


def _counted(accelerators: Iterable[Accelerator]) -> str:
    names = [each.name for each in accelerators]
    return ", ".join(f"{names.count(name)}x {name}" for name in dict.fromkeys(names)) or "-"


def _server(user: str, port: int | None, *, is_ours: bool) -> str:
    return f"{user}:{port or '?'}{' (ours)' if is_ours else ''}"


def _gpus_table(nodes: Iterable[NodeFacts]) -> Table:
    drawn = table("Node", "GPU", "Name", "VRAM free", "Load", "Temp", "Power", "NUMA", "Links", "Held by", "UUID")
    for node in nodes:
        links = {
            uuid: [link for link in node.gpu_links if uuid in link.uuids]
            for uuid in (each.uuid for each in node.accelerators)
        }
        for each in node.accelerators:
            drawn.add_row(
                literal(node.node),
                str(each.index),
                literal(each.name),
                f"{_gib(each.vram_free_bytes)} of {_gib(each.vram_total_bytes)} GiB",
                _known(each.utilisation_percent, " %"),
                _known(each.temperature_c, " °C"),
                _known(each.power_w, " W"),
                _known(each.numa_node, ""),
                literal(
                    ", ".join(f"{link.nvlinks}x NVLink" if link.nvlinks else link.path for link in links[each.uuid])
                )
                or "-",
                literal(_holders(each)) or "-",
                literal(each.uuid),
            )
    return drawn


def _holders(accelerator: Accelerator) -> str:
    held = []
    for each in accelerator.processes:
        size = "?" if each.vram_bytes is None else _gib(each.vram_bytes)
        held.append(f"{each.name or each.pid}{f' ({each.user})' if each.user else ''} {size} GiB")
    return ", ".join(held)


def _known(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:g}{unit}"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"


# --- nodes add -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Addition:
    """A node as the command line names it."""

    name: str
    host: str | None
    user: str | None
    key: Path | None
    fingerprint: str | None
    yes: bool


def run_add(state: Path, config: Path | None, addition: Addition) -> int:
    """Get to know a host, check it, and write it into the configuration; nothing is written where a check fails."""
    path = config or Path("cluster.yaml")
    settings = hosts_looked_at(path, state).settings if path.exists() else None
    known = next((each for each in settings.nodes if each.name == addition.name), None) if settings else None
    node = _wanted(addition, known)
    reach = _reach(state, settings.ssh if settings else SshSettings())
    asyncio.run(_meet(node, addition, reach))
    facts = asyncio.run(_checked(node, reach))
    draw(_nodes_table([facts]))
    if facts.accelerators:
        draw(_gpus_table([facts]))
    _tell_problems([Sight(facts.node, facts)])
    if known is not None:
        console.print(f"{literal(node.name)} is in {literal(str(path))} already; nothing was changed there")
        return 0
    add_node(path, _written(addition, node))
    console.print(f"{literal(node.name)} was added to {literal(str(path))}")
    if settings is not None and "nodes" not in settings.model_fields_set:
        console.print("this machine is no node any more: the file names nodes now; add `- name: local` to keep it")
    return 0


def _wanted(addition: Addition, known: NodeSettings | None) -> NodeSettings:
    if known is None:
        if addition.host is None:
            raise click.UsageError("a new node needs --host")
        return _node(addition, addition.host)
    if addition.host not in (None, known.address):
        raise SettingsError(
            f"{known.name!r} is a node already, at {known.address}; take another name, or change it there"
        )
    if known.address == LOCAL:
        raise SettingsError(f"{known.name!r} is this machine; nothing is to be added")
    return known


def _node(addition: Addition, host: str) -> NodeSettings:
    try:
        node = NodeSettings(name=addition.name, address=host, user=addition.user, key=addition.key)
    except ValueError as error:  # pydantic's, with every field that is wrong
        first = error.errors(include_url=False)[0] if hasattr(error, "errors") else {"msg": str(error)}
        raise click.UsageError(str(first["msg"]).removeprefix("Value error, ")) from error
    if node.address == LOCAL:
        raise click.UsageError("this machine is added by hand: `nodes: [{name: local}]`")
    return node


def _written(addition: Addition, node: NodeSettings) -> dict[str, str]:
    fields = {"name": node.name, "address": node.address, "user": node.user}
    if addition.key is not None:
        fields["key"] = str(addition.key)
    return {key: value for key, value in fields.items() if value is not None}


async def _meet(node: NodeSettings, addition: Addition, reach: Reach) -> None:
    """Have the host's key pinned, by somebody who saw its fingerprint. Raises HostError for another key."""
    address = address_of(node)
    pinned = reach.keys.pinned(address.host, address.port)
    shown = await shown_key(address, reach.waits) if pinned is None or addition.fingerprint else None
    if shown is None:
        return  # known already: `connected` holds it to its key
    told = fingerprint(shown)
    if addition.fingerprint is not None:
        if addition.fingerprint.rstrip("=") != told:
            raise HostError(f"{node.name}: the host key of {address.host} is {told}, not {addition.fingerprint}")
    elif not addition.yes:
        _ask(node, address, told)
    else:
        console.print(f"host key of {literal(address.host)}: {told}")
    reach.keys.pin(address.host, address.port, shown)


def _ask(node: NodeSettings, address: SshAddress, told: str) -> None:
    console.print(f"host key of {literal(address.host)}: {told}")
    if not sys.stdin.isatty():
        fail(f"{node.name}: nobody is here to say whether that is its key; give it: --fingerprint {told}", 1)
    if not click.confirm("is that its key? (`ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub` there says)"):
        fail(f"{node.name}: not added", 1)


async def _checked(node: NodeSettings, reach: Reach) -> NodeFacts:
    """Log in, sudo, python3, driver: one after the other. Raises HostError at the first that is missing."""
    async with connected(address_of(node), reach.keys, reach.waits) as host:
        if await host.rights() is not Rights.RESTRICTED:
            await host.become()
        return await look_once(host, Asked(NodeName(node.name), node.models_dir, most=1))
