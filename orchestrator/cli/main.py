"""The commands and their options. What takes long to import is imported by the command that needs it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from orchestrator import __version__
from orchestrator.app.paths import default_state
from orchestrator.cli.output import console, fail
from orchestrator.core.errors import OrchestratorError, SettingsError

EXIT_FAILED, EXIT_SETTINGS, EXIT_INTERRUPTED = 1, 3, 130

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
    help="The cluster's configuration.  [default: ./cluster.yaml where there is one]",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
ENDPOINT = click.option(
    "--endpoint", default=None, help="host:port of the cluster.  [default: the one that runs with --state]"
)
KEY = click.option(
    "--key", envvar="OLLAMACTL_KEY", default="", help="API key; better in the environment: OLLAMACTL_KEY."
)


class _Errors(click.Group):
    """Our errors end a command with their text and an exit code, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as why:
            fail(str(why), EXIT_SETTINGS)
        except OrchestratorError as why:
            fail(str(why), EXIT_FAILED)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)


def _checked_listen(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    from orchestrator.settings.syntax import host_and_port

    return _checked(given, host_and_port)


def _checked_cards(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    from orchestrator.core.cards import parse_cards

    return _checked(given, parse_cards)


def _checked(given: str | None, parse: Callable[[str], object]) -> str | None:
    """An option's value that `parse` can read; otherwise the command line is wrong, for the parser's reason."""
    if given is not None:
        try:
            parse(given)
        except ValueError as why:
            raise click.BadParameter(str(why)) from why
    return given


LISTEN = click.option(
    "--listen",
    default=None,
    metavar="HOST:PORT",
    callback=_checked_listen,
    help="Address of the endpoint.  [default: 127.0.0.1:11434 or the next free]",
)
DETACH = click.option("--detach", is_flag=True, help="Return once it is ready; end it with `ollamactl down`.")
READY_FILE = click.option(
    "--ready-file", type=click.Path(path_type=Path), default=None, help="JSON is written here when it is ready."
)


@click.group(cls=_Errors, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """One Ollama out of all your GPUs: placement, one endpoint, a router, an answer cache.

    Exit codes: 0 done · 1 it failed · 2 wrong command line · 3 wrong configuration · 4 nothing answers ·
    130 interrupted.
    """


@main.command()
@STATE
@CONFIG
@LISTEN
@click.option(
    "--simulate",
    default=None,
    metavar="CARDS",
    callback=_checked_cards,
    help='Play cards instead of engines: "3x RTX 4090, 1x A100-40GB".',
)
@DETACH
@READY_FILE
def up(
    state: Path, config: Path | None, listen: str | None, simulate: str | None, detach: bool, ready_file: Path | None
) -> None:
    """Start the cluster on this machine and stay until Ctrl-C."""
    from orchestrator.app.live_settings import Wish
    from orchestrator.cli.up import run_up

    sys.exit(run_up(Wish(state, _config(config), listen, simulate, ready_file), detach=detach))


@main.command()
@STATE
@CONFIG
@LISTEN
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=None,
    help="Gateway processes that share the port.  [default: `gateway.workers`, 2 unless set]",
)
@DETACH
@READY_FILE
def gateway(
    state: Path, config: Path | None, listen: str | None, workers: int | None, detach: bool, ready_file: Path | None
) -> None:
    """Balance the `instances` of the configuration, which run already, and deploy nothing; stay until Ctrl-C."""
    from orchestrator.app.live_settings import Wish
    from orchestrator.cli.up import run_up

    wish = Wish(state, _config(config), listen, None, ready_file, workers=workers, only_balances=True)
    sys.exit(run_up(wish, detach=detach))


@main.command()
@STATE
def down(state: Path) -> None:
    """End the cluster that runs with --state, and wait until it has."""
    from orchestrator.cli.up import run_down

    sys.exit(run_down(state))


@main.command()
@STATE
@ENDPOINT
@KEY
@JSON
def status(state: Path, endpoint: str | None, key: str, as_json: bool) -> None:
    """What runs, what it is doing, what is on and what is off."""
    from orchestrator.cli.status import run_status

    sys.exit(run_status(state, endpoint, key, as_json=as_json))


@main.command()
@STATE
@ENDPOINT
@KEY
@JSON
def queue(state: Path, endpoint: str | None, key: str, as_json: bool) -> None:
    """Who waits for which model, how long, and how busy its slots are."""
    from orchestrator.cli.queue import run_queue

    sys.exit(run_queue(state, endpoint, key, as_json=as_json))


@main.command()
@click.argument("question")
@STATE
@ENDPOINT
@KEY
@JSON
@click.option("--model", default="auto", show_default=True, help="A model's name, or a route's.")
@click.option("--tokens", type=click.IntRange(1), default=None, help="Longest answer, in tokens.")
def ask(
    question: str, state: Path, endpoint: str | None, key: str, as_json: bool, model: str, tokens: int | None
) -> None:
    """Ask the cluster, and see what answered."""
    from orchestrator.cli.status import run_ask

    sys.exit(run_ask(state, endpoint, key, question, model=model, tokens=tokens, as_json=as_json))


@main.command()
@CONFIG
@click.option(
    "--simulate",
    default=None,
    metavar="CARDS",
    callback=_checked_cards,
    help="Plan for these cards instead of this machine's.",
)
@JSON
def plan(config: Path | None, simulate: str | None, as_json: bool) -> None:
    """Which instances would run where, and why. Changes nothing."""
    from orchestrator.cli.plan import run_plan

    sys.exit(run_plan(_config(config), simulate, as_json=as_json))


@main.group()
def config() -> None:
    """Check, show or describe the configuration."""


@config.command("check")
@CONFIG
def config_check(config: Path | None) -> None:
    """Check cluster.yaml: every mistake with its line, or the word that it is valid."""
    from orchestrator.cli.configuration import run_check

    sys.exit(run_check(_config(config)))


@config.command("show")
@CONFIG
@JSON
def config_show(config: Path | None, as_json: bool) -> None:
    """The configuration with every default filled in and every secret masked."""
    from orchestrator.cli.configuration import run_show

    sys.exit(run_show(_config(config), as_json=as_json))


@config.command("schema")
def config_schema() -> None:
    """JSON Schema of cluster.yaml, for editors."""
    from orchestrator.cli.configuration import run_schema

    sys.exit(run_schema())


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the shell's completion script: `eval "$(ollamactl completion bash)"`."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(main, {}, "ollamactl", "_OLLAMACTL_COMPLETE").source())


@main.command()
@JSON
def version(as_json: bool) -> None:
    """The program's version."""
    if as_json:
        click.echo(f'{{"version": "{__version__}"}}')
    else:
        console.print(f"ollamactl {__version__}")


def _config(given: Path | None) -> Path | None:
    """The configuration file: the one named, or ./cluster.yaml where there is one."""
    if given is not None:
        return given
    here = Path("cluster.yaml")
    return here if here.exists() or here.is_symlink() else None
