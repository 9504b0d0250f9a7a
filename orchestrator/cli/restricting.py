"""`ollamactl nodes restrict`: a host whose account may do there what is done with instances, and nothing else."""

from __future__ import annotations

import asyncio
import getpass
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from orchestrator.app import audit
from orchestrator.app.paths import StatePaths
from orchestrator.app.restricting import admin_of, restrict, restriction_of, unrestrict
from orchestrator.app.visits import BRINGS_NONE, visits
from orchestrator.cli.looking import hosts_looked_at
from orchestrator.cli.output import console, fail, literal
from orchestrator.core.errors import SettingsError
from orchestrator.core.model import NodeName
from orchestrator.nodes.restricting import RULE, Restriction
from orchestrator.settings import ClusterSettings


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for. `by`: who logs in for it; `into`: the folder that files are written into."""

    by: str | None
    key: Path | None
    into: Path | None
    is_undone: bool
    is_agreed: bool


def run_restrict(state: Path, config: Path | None, name: str, wanted: Wanted) -> int:
    """Restrict a host, or take that back. Raises OrchestratorError."""
    paths = StatePaths(state.absolute())
    settings = hosts_looked_at(config, state).settings
    node = _node(settings, name)
    return asyncio.run(_restrict(paths, settings, node, wanted))


def _node(settings: ClusterSettings, name: str) -> NodeName:
    known = [each.name for each in settings.hosts]
    if name not in known:
        told = f"there are {', '.join(known)}" if known else "there is none with an `address`"
        raise SettingsError(f"{name}: no host of that name; {told}")
    return NodeName(name)


async def _restrict(paths: StatePaths, settings: ClusterSettings, node: NodeName, wanted: Wanted) -> int:
    ways = await visits(settings, paths, of=BRINGS_NONE)
    admin = admin_of(ways, node, wanted.by, wanted.key)
    if wanted.is_undone:
        gone = await unrestrict(ways, admin)
        _written_down(paths, "unrestrict", node)
        console.print(
            f"{literal(node)} is restricted no more: {literal(', '.join(gone))} gone" if gone else "it was not"
        )
        return 0
    restriction = await restriction_of(ways, node)
    if wanted.into is not None:
        _write(restriction, wanted.into)
        return 0
    _agree(restriction, wanted)
    changed = await restrict(ways, restriction, admin)
    _written_down(paths, "restrict", node)
    console.print(
        "\n".join(f"{literal(node)}: {literal(each)}" for each in changed) or f"{literal(node)} is so already"
    )
    console.print(
        f"as root {literal(restriction.account)} does there what ollamactl does with instances, and nothing else"
    )
    return 0


def _agree(restriction: Restriction, wanted: Wanted) -> None:
    if wanted.is_agreed:
        return
    console.print(
        f"{literal(restriction.account)} will have no other sudo on {literal(restriction.node)}; it is taken back by "
        f"somebody else with sudo (`--undo --by USER`), or by root there (`rm {RULE}`)",
        soft_wrap=True,
    )
    if not sys.stdin.isatty():
        fail(f"{restriction.node}: nobody is here to agree; say so with --yes", 2)
    if not click.confirm("restrict it?"):
        fail(f"{restriction.node}: nothing was changed", 1)


def _write(restriction: Restriction, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path, (content, mode) in restriction.files().items():
        to = folder / Path(path).name
        to.write_bytes(content)
        console.print(f"{literal(str(to))}: as {path}, root's, mode {mode:04o}", soft_wrap=True)


def _written_down(paths: StatePaths, act: str, node: NodeName) -> None:
    audit.record(paths.audit, getpass.getuser(), "command", act, node)
