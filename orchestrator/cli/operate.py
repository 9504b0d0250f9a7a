"""`ollamactl drain`, `restart`, `logs`, `exec` and `events`: single instances and hosts of a cluster that runs."""

from __future__ import annotations

import asyncio
import getpass
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import asyncssh
import click

from orchestrator.app import audit, settings_in_use
from orchestrator.app.operating import drain, node_of, restart
from orchestrator.app.paths import StatePaths
from orchestrator.app.rotating import begin
from orchestrator.app.visits import BRINGS_NONE, Visits, visits
from orchestrator.cli.output import console, literal
from orchestrator.core.errors import HostError, SettingsError
from orchestrator.core.model import Event, NodeName
from orchestrator.fleet import chronicle
from orchestrator.fleet.inventory import LOCAL
from orchestrator.fleet.made import UNIT_PREFIX
from orchestrator.nodes.ssh import SshError
from orchestrator.settings import ClusterSettings, NodeSettings, load

LOOK_S = 0.5


def run_drain(state: Path, name: str, *, is_undone: bool) -> int:
    """Have an instance, or all of a node, get nothing new; or take that back. Raises OrchestratorError."""
    paths = StatePaths(state.absolute())
    asyncio.run(drain(paths, name, is_undone=is_undone))
    audit.record(paths.audit, getpass.getuser(), "command", "undrain" if is_undone else "drain", name)
    told = "has calls again" if is_undone else "finishes what it has and gets no new calls"
    console.print(f"{literal(name)} {told}")
    return 0


def run_restart(state: Path, name: str) -> int:
    """Have an instance finish what it has, and start anew. Raises OrchestratorError."""
    paths = StatePaths(state.absolute())
    asyncio.run(restart(paths, name))
    audit.record(paths.audit, getpass.getuser(), "command", "restart", name)
    console.print(f"{literal(name)} was started anew and serves")
    return 0


def run_renew_authority(state: Path) -> int:
    """Have another authority take the place of the cluster's, and tell each step. Raises OrchestratorError."""
    paths = StatePaths(state.absolute())

    async def watch() -> None:
        async for step in begin(paths):
            console.print(literal(step), soft_wrap=True)

    audit.record(paths.audit, getpass.getuser(), "command", "renew authority", "")
    asyncio.run(watch())
    return 0


# --- logs -------------------------------------------------------------------------------------------------------------


def run_logs(state: Path, config: Path | None, name: str, *, lines: int, follow: bool) -> int:
    """Print what an instance wrote last, and with `follow` what it writes. Raises OrchestratorError."""
    paths = StatePaths(state.absolute())
    settings = _settings(paths, config)
    node = asyncio.run(node_of(paths, settings, name))
    if node is None or node.address == LOCAL:
        return _local_logs(paths.logs / f"{UNIT_PREFIX}{name}.log", name, lines=lines, follow=follow)
    asyncio.run(_host_logs(paths, settings, node, name, lines=lines, follow=follow))
    return 0


async def _host_logs(
    paths: StatePaths, settings: ClusterSettings, node: NodeSettings, name: str, *, lines: int, follow: bool
) -> None:
    ways = await visits(settings, paths, of=BRINGS_NONE)
    async with (
        ways.keeper(NodeName(node.name)) as keeper,
        aclosing(cast(Any, keeper.logs(UNIT_PREFIX + name, lines=lines, follow=follow))) as said,
    ):
        async for line in cast(AsyncIterator[str], said):
            click.echo(line)


def _local_logs(path: Path, name: str, *, lines: int, follow: bool) -> int:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file.readlines()[-lines:]:
                click.echo(line, nl=False)
            while follow:
                if text := file.read():
                    click.echo(text, nl=False)
                time.sleep(LOOK_S)
    except FileNotFoundError as why:
        raise HostError(f"{name}: no instance of that name has written a log; `ollamactl status` names them") from why
    return 0


# --- exec -------------------------------------------------------------------------------------------------------------


def run_exec(state: Path, config: Path | None, name: str, argv: tuple[str, ...], *, sudo: bool) -> int:
    """Run a command on a node; its exit code. Raises OrchestratorError."""
    paths = StatePaths(state.absolute())
    settings = _settings(paths, config)
    node = next((each for each in settings.nodes if each.name == name), None)
    if node is None:
        raise SettingsError(
            f"{name}: no node of that name; there are {', '.join(each.name for each in settings.nodes)}"
        )
    if node.address == LOCAL:
        words = ["sudo", "-n", "--", *argv] if sudo else list(argv)
        try:
            return subprocess.run(words, check=False).returncode  # noqa: S603 - the operator's own words, no shell
        except OSError as why:
            raise HostError(f"{argv[0]}: {why.strerror}") from why
    return asyncio.run(_exec(paths, settings, NodeName(name), argv, sudo=sudo))


async def _exec(
    paths: StatePaths, settings: ClusterSettings, node: NodeName, argv: tuple[str, ...], *, sudo: bool
) -> int:
    ways: Visits = await visits(settings, paths, of=BRINGS_NONE)
    async with ways.connected(node) as host, host.started(argv, step="exec", sudo=sudo) as process:
        process.stdin.write_eof()
        await asyncio.gather(_pass_on(process.stdout, sys.stdout), _pass_on(process.stderr, sys.stderr))
        await process.wait_closed()
        if process.exit_status is None:
            raise SshError(node, "exec", f"{argv[0]}: the connection was lost")
        # A command that a signal ended tells no status; a shell would say so.
        return process.exit_status if process.exit_status >= 0 else 255


async def _pass_on(reader: asyncssh.SSHReader[bytes], to: Any) -> None:
    while piece := await reader.read(65_536):
        to.buffer.write(piece)
        to.buffer.flush()


# --- events -----------------------------------------------------------------------------------------------------------


def run_events(state: Path, *, follow: bool, as_json: bool, last: int) -> int:
    """What happened to the fleet, the oldest first; with `follow` also what happens. Raises HostError."""
    path = StatePaths(state.absolute()).events
    try:
        reader = chronicle.Reader(path)
        reader.new()
        for event in chronicle.read(path)[-last:]:
            _print_event(event, as_json=as_json)
        while follow:
            time.sleep(LOOK_S)
            for event in reader.new():
                _print_event(event, as_json=as_json)
    except OSError as why:
        raise HostError(f"{path} cannot be read: {why.strerror}") from why
    return 0


def run_audit(state: Path, *, as_json: bool, last: int) -> int:
    """Who had what done, the oldest first. Raises HostError."""
    for act in audit.read(StatePaths(state.absolute()).audit)[-last:]:
        if as_json:
            click.echo(json.dumps(asdict(act), ensure_ascii=False))
            continue
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(act.at_ms / 1000))
        console.print(f"{at}  {literal(act.who):<20} {act.by:<8} {act.act:<8} {literal(act.what)}", soft_wrap=True)
    return 0


def _print_event(event: Event, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(event), ensure_ascii=False))
        return
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at_unix_ms / 1000))
    console.print(f"{at}  {event.kind:<20} {literal(event.text)}", soft_wrap=True)


def _settings(paths: StatePaths, config: Path | None) -> ClusterSettings:
    """Those of the file, or, where none is named and none lies here, those in use."""
    if config is not None:
        return load(config)
    if not paths.settings.exists():
        raise SettingsError(f"there is no cluster.yaml here, and {paths.root} knows of no cluster; name one: --config")
    return settings_in_use.read(paths)
