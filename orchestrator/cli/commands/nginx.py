"""nginx before the cluster: rendered, checked, installed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.options import CONFIG, ENDPOINT, KEY, STATE

if TYPE_CHECKING:
    from orchestrator.cli.nginx import Asked


_DIRECT = click.option("--direct", is_flag=True, help="Straight over the instances of one model, without a gateway.")
_MODEL = click.option("--model", default=None, help="The model, with --direct where there are several.")


def _asked(command: Callable[..., None]) -> Callable[..., None]:
    """The options that all commands have: which nginx server of which cluster; handed on as one value, `asked`."""

    @wraps(command)
    def with_asked(
        config: Path | None, state: Path, direct: bool, model: str | None, endpoint: str | None, key: str, **more: Any
    ) -> None:
        from orchestrator.cli.nginx import Asked

        command(Asked(config, state, direct, model, endpoint, key), **more)

    options = (
        CONFIG,
        STATE,
        _DIRECT,
        _MODEL,
        ENDPOINT,
        KEY,
    )
    for option in reversed(options):
        with_asked = option(with_asked)
    return with_asked


def _in_place(command: Callable[..., None]) -> Callable[..., None]:
    """The options of commands that change what nginx reads."""
    options = (
        click.option(
            "--file",
            type=click.Path(path_type=Path, dir_okay=False),
            default=Path("/etc/nginx/conf.d/ollama-cluster.conf"),
            show_default=True,
            help="Where nginx reads it.",
        ),
        click.option(
            "--nginx-conf",
            type=click.Path(path_type=Path, dir_okay=False),
            default=None,
            help="nginx' main file (nginx -c).",
        ),
        click.option("--force", is_flag=True, help="Also over a file that was written by somebody else."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _version(ctx: click.Context, param: click.Parameter, given: str | None) -> tuple[int, int, int] | None:
    if given is None:
        return None
    found = re.fullmatch(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})", given)
    if found is None:
        raise click.BadParameter(f"expected a version such as 1.22.1; got {given!r}")
    return int(found[1]), int(found[2]), int(found[3])


@click.group()
def nginx() -> None:
    """nginx before the cluster: TLS, HTTP/2, limits by address, a log of JSON lines."""


@nginx.command("render")
@_asked
@click.option(
    "--output", type=click.Path(path_type=Path, allow_dash=True), default="-", help="File to write.  [default: stdout]"
)
@click.option(
    "--for",
    "version",
    metavar="X.Y.Z",
    callback=_version,
    help="Version of the nginx that will read it.  [default: this machine's]",
)
def nginx_render(asked: Asked, output: Path, version: tuple[int, int, int] | None) -> None:
    """Print the file that `install` would put in place. Changes nothing."""
    from orchestrator.cli.nginx import run_render

    sys.exit(run_render(asked, output, version))


@nginx.command("check")
@_asked
def nginx_check(asked: Asked) -> None:
    """Let `nginx -t` read that file, in a folder of its own. Changes nothing."""
    from orchestrator.cli.nginx import run_check

    sys.exit(run_check(asked))


@nginx.command("install")
@_asked
@_in_place
def nginx_install(asked: Asked, file: Path, nginx_conf: Path | None, force: bool) -> None:
    """Put the file in place, checked, and reload nginx; where nginx refuses it, all is as before."""
    from orchestrator.cli.nginx import run_install

    sys.exit(run_install(asked, file, nginx_conf, is_forced=force))


@nginx.command("follow")
@CONFIG
@STATE
@_DIRECT
@_MODEL
@_in_place
def nginx_follow(
    config: Path | None, state: Path, direct: bool, model: str | None, file: Path, nginx_conf: Path | None, force: bool
) -> None:
    """Stay, and install again whenever the settings change, or with --direct the instances that serve.

    Settings are those of --config, otherwise those that the cluster of --state works by. What is in the way is said
    once, and tried again; until then nginx serves by what was installed last.
    """
    from orchestrator.cli.nginx import Asked, run_follow

    sys.exit(run_follow(Asked(config, state, direct, model), file, nginx_conf, is_forced=force))
