"""Settings of commands that only look at them: what is not set in this shell is said, and nothing fails for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator.app.live_settings import settings_to_look_at
from orchestrator.cli.output import errors, literal
from orchestrator.settings.looking import Looked, look


def looked_at(config: Path | None, state: Path | None = None, simulate: str | None = None) -> Looked:
    """The file's settings, those of the cluster that runs with the folder `state`, or the defaults.

    With a note on stderr for each missing variable. Raises SettingsError, HostError.
    """
    return with_notes(asyncio.run(settings_to_look_at(config, state, simulate)))


def hosts_looked_at(config: Path | None, state: Path) -> Looked:
    """As `looked_at`, for who needs to know the hosts alone: whether models can be sized and files of the FAQ are there
    is not asked of a file."""
    return with_notes(look(config)) if config else looked_at(None, state)


def with_notes(looked: Looked) -> Looked:
    """The same, once each missing variable is told on stderr."""
    for each in looked.lacking:
        told = f"the environment variable {each.variable} is not set here; the cluster needs it where it is started"
        told = f"{each.field}: {told}" if each.field else told
        errors.print(f"[yellow]note:[/yellow] {literal(told)}", soft_wrap=True)
    return looked
