"""`ollamactl backup` and `restore`: what matters of a cluster as one file, and a cluster out of one."""

from __future__ import annotations

import asyncio
import getpass
import time
from pathlib import Path

from orchestrator.app import audit
from orchestrator.app.archive import Manifest, passphrase_in
from orchestrator.app.backing_up import CONFIG_NAME, OUTSIDE, Wanted, back_up
from orchestrator.app.paths import StatePaths
from orchestrator.app.restoring import Asked, inspect, restore
from orchestrator.cli.output import console, errors, literal
from orchestrator.core.errors import HostError


def run_backup(state: Path, config: Path | None, to: Path, *, with_calls: bool, passphrase: Path | None) -> int:
    """Write a backup. Raises OrchestratorError."""
    paths = StatePaths(state.absolute())
    if not paths.root.is_dir():
        raise HostError(f"there is no state folder {paths.root}; name it with --state")
    secret = passphrase_in(passphrase) if passphrase is not None else None
    audit.record(paths.audit, getpass.getuser(), "command", "backup", str(to))
    manifest = asyncio.run(back_up(Wanted(paths.root, config, to.absolute(), with_calls, secret)))
    console.print(f"{literal(str(to))}: {len(manifest.files)} files, {to.stat().st_size:,} bytes", soft_wrap=True)
    for each in manifest.left_out:
        errors.print(f"[yellow]left out: {literal(each)}[/yellow]", soft_wrap=True)
    if config is None:
        errors.print("[yellow]no cluster.yaml here, so none is in it; name it with --config[/yellow]")
    if secret is None:
        console.print("it holds secrets in clear: keep it where only you can read it, or use --passphrase-file")
    return 0


def run_restore(archive: Path, state: Path, config_to: Path, *, is_check: bool, passphrase: Path | None) -> int:
    """Bring a backup back, or check it. Raises OrchestratorError."""
    secret = passphrase_in(passphrase) if passphrase is not None else None
    if not config_to.is_dir():
        raise HostError(f"there is no folder {config_to}; name one with --config-to")
    asked = Asked(archive, state.absolute(), config_to.absolute(), secret)
    if is_check:
        _tell(inspect(asked))
        return 0
    restored = asyncio.run(restore(asked))
    paths = StatePaths(asked.state)
    audit.record(paths.audit, getpass.getuser(), "command", "restore", str(archive))
    _tell(restored.manifest)
    console.print(f"brought back: {len(restored.files)} files and {restored.counts} counts of Redis")
    for each in restored.outside:
        place = "/" / each.relative_to(asked.config_to / OUTSIDE)
        console.print(f"put where it belongs, where it is not there: {literal(f'{each} -> {place}')}", soft_wrap=True)
    if CONFIG_NAME in restored.manifest.files:
        console.print(f"start it: ollamactl up --state {asked.state} --config {asked.config_to / 'cluster.yaml'}")
    return 0


def _tell(manifest: Manifest) -> None:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.made_unix_ms / 1000))
    made = literal(f"made {at} on {manifest.host} by ollamactl {manifest.program}")
    console.print(f"{made}; every file is as it was kept")
