"""`ollamactl` put together: every command from its room, and what an error of ours ends it with."""

from __future__ import annotations

import sys
from typing import Any

import click

from orchestrator import __version__
from orchestrator.cli.commands.cache import cache
from orchestrator.cli.commands.cluster import ask, doctor, down, gateway, queue, status, top, up
from orchestrator.cli.commands.configuration import config
from orchestrator.cli.commands.evaluate import drift, evaluate
from orchestrator.cli.commands.faq import faq
from orchestrator.cli.commands.fleet import deploy, destroy, drain, events, exec_, logs, restart, rollback
from orchestrator.cli.commands.hosts import gpus, nodes
from orchestrator.cli.commands.keys import keys
from orchestrator.cli.commands.limits import limits
from orchestrator.cli.commands.nginx import nginx
from orchestrator.cli.commands.planning import capacity, plan
from orchestrator.cli.commands.providers import providers
from orchestrator.cli.commands.records import calls, report
from orchestrator.cli.commands.route import route
from orchestrator.cli.commands.upkeep import backup, restore, upgrade
from orchestrator.cli.options import JSON
from orchestrator.cli.output import console, fail
from orchestrator.core.errors import OrchestratorError, SettingsError

EXIT_FAILED, EXIT_SETTINGS, EXIT_INTERRUPTED = 1, 3, 130


class _Program(click.Group):
    """Our errors end a command with their text and an exit code, without a traceback; help lists commands by room."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = formatter.width - 6 - max(map(len, self.commands))
        for title, room in _ROOMS.items():
            with formatter.section(title):
                formatter.write_dl([(each.name or "", each.get_short_help_str(width)) for each in room])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as why:
            fail(str(why), EXIT_SETTINGS)
        except OrchestratorError as why:
            fail(str(why), EXIT_FAILED)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """One Ollama out of all your GPUs: placement, one endpoint, a router, an answer cache.

    Exit codes: 0 done · 1 it failed · 2 wrong command line · 3 wrong configuration · 4 nothing answers ·
    130 interrupted.
    """


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the shell's completion script: `eval "$(ollamactl completion bash)"`."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(main, {}, "ollamactl", "_OLLAMACTL_COMPLETE").source())


@click.command()
@JSON
def version(as_json: bool) -> None:
    """The program's version."""
    if as_json:
        click.echo(f'{{"version": "{__version__}"}}')
    else:
        console.print(f"ollamactl {__version__}")


_ROOMS: dict[str, tuple[click.Command, ...]] = {
    "A cluster here": (up, down, gateway, upgrade, backup, restore, doctor),
    "Asking and watching": (ask, status, top, queue, calls, report, events),
    "Planning": (config, plan, capacity),
    "Hosts and instances": (nodes, gpus, deploy, rollback, destroy, drain, restart, logs, exec_),
    "Who may ask, and how much": (keys, limits, providers, nginx),
    "Answers": (route, cache, faq, evaluate, drift),
    "This program": (completion, version),
}
"""What `--help` lists together. Typed, each command stays as it is: `ollamactl drain`."""

for room in _ROOMS.values():
    for command in room:
        main.add_command(command)
