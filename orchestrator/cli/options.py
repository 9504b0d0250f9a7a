"""Options that several commands have, and how their values are checked; made so that one line each asks for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from orchestrator.app.paths import default_state


def _config_file(ctx: click.Context, param: click.Parameter, given: Path | None) -> Path | None:
    """The configuration file: the one named, or ./cluster.yaml where there is one."""
    if given is not None:
        return given
    here = Path("cluster.yaml")
    return here if here.exists() or here.is_symlink() else None


def checked_listen(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    from orchestrator.settings.syntax import host_and_port

    return checked(given, host_and_port)


def checked_cards(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    from orchestrator.core.cards import parse_cards

    return checked(given, parse_cards)


def checked(given: str | None, parse: Callable[[str], object]) -> str | None:
    """An option's value that `parse` can read; otherwise the command line is wrong, for the parser's reason."""
    if given is not None:
        try:
            parse(given)
        except ValueError as why:
            raise click.BadParameter(str(why)) from why
    return given


class _Result(click.Path):
    """A file that a command writes at its end: that it cannot be is said before anything was asked or counted."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        folder = path.absolute().parent
        if not folder.is_dir():
            self.fail(f"{path}: there is no folder {folder}", param, ctx)
        if not os.access(folder, os.W_OK | os.X_OK):
            self.fail(f"{path}: nothing may be written in {folder}", param, ctx)
        return path


RESULT = _Result(dir_okay=False, writable=True)

STATE = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=default_state,
    show_default="~/.local/state/ollamactl",
    help="Folder of this cluster's state; one cluster a folder.",
)
CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    callback=_config_file,
    help="The cluster's configuration.  [default: ./cluster.yaml where there is one]",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
ENDPOINT = click.option(
    "--endpoint", default=None, help="host:port of the cluster.  [default: the one that runs with --state]"
)
KEY = click.option(
    "--key", envvar="OLLAMACTL_KEY", default="", help="API key; better in the environment: OLLAMACTL_KEY."
)
LISTEN = click.option(
    "--listen",
    default=None,
    metavar="HOST:PORT",
    callback=checked_listen,
    help="Address of the endpoint.  [default: 127.0.0.1:11434 or the next free]",
)
OPEN = click.option("--open", "is_open", is_flag=True, help="Let anybody ask without a key, wherever it listens.")
DETACH = click.option("--detach", is_flag=True, help="Return once it is ready; end it with `ollamactl down`.")
READY_FILE = click.option(
    "--ready-file", type=click.Path(path_type=Path), default=None, help="JSON is written here when it is ready."
)
