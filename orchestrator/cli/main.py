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
@CONFIG
@KEY
@JSON
@click.option("--all", "is_all", is_flag=True, help="Also what was looked at and is well.")
def doctor(state: Path, config: Path | None, key: str, as_json: bool, is_all: bool) -> None:
    """What is wrong with hosts, engines, Redis and settings, and what mends it. Changes nothing.

    Looks at the cluster that runs with --state; where none does, at what --config names.

    Exit codes: 0 nothing above a note · 1 warnings · 2 errors, or a wrong command line.
    """
    from orchestrator.cli.doctor import run_doctor

    sys.exit(run_doctor(state, _config(config), key, as_json=as_json, is_all=is_all))


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
@click.option("--explain", is_flag=True, help="Also several instances a GPU beside one with more slots, as predicted.")
@JSON
def plan(config: Path | None, simulate: str | None, explain: bool, as_json: bool) -> None:
    """Which instances would run where, and why. Changes nothing."""
    from orchestrator.cli.plan import run_plan

    sys.exit(run_plan(_config(config), simulate, as_json=as_json, is_explained=explain))


def _checked_mix(ctx: click.Context, param: click.Parameter, given: str) -> Any:
    from orchestrator.core.capacity.demand import Mix

    try:
        cache, small, full = (float(part) / 100 for part in given.split("/"))
        return Mix(cache, small, full)
    except ValueError as why:
        raise click.BadParameter(f"{given!r}: three percentages that make 100, such as 60/30/10") from why


@main.command()
@click.option("--users", type=click.IntRange(1, 20_000), default=None, help="[default: 500, or as many as recorded]")
@click.option("--think", type=click.FloatRange(0.01), default=30.0, show_default=True, help="Seconds between calls.")
@click.option("--mix", default="60/30/10", show_default=True, callback=_checked_mix, help="Cache/small/full, in %.")
@click.option("--hit-rate", type=click.FloatRange(0, 1), default=None, help="Another share for the cache, 0 to 1.")
@click.option("--prompt", type=click.FloatRange(1), default=300, show_default=True, help="Tokens of a question.")
@click.option("--answer", type=click.FloatRange(1), default=100, show_default=True, help="Tokens of an answer.")
@click.option("--trace", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Lengths as recorded.")
@click.option("--small", default="llama3.2:3b-instruct-q4_K_M", show_default=True, help="The small tier's model.")
@click.option("--full", default="llama3.1:8b-instruct-q4_K_M", show_default=True, help="The full tier's model.")
@click.option("--goal-small", type=click.FloatRange(0.01), default=2.0, show_default=True, help="Seconds, p95.")
@click.option("--goal-full", type=click.FloatRange(0.01), default=5.0, show_default=True, help="Seconds, p95.")
@click.option("--slots", type=click.IntRange(1, 64), default=None, help="Of an instance.  [default: 1 to 16, the best]")
@click.option("--context", type=click.IntRange(256), default=4096, show_default=True, help="Tokens of a slot.")
@click.option("--kv", type=click.Choice(["f16", "q8_0", "q4_0"]), default="f16", show_default=True)
@click.option("--cards", default=None, metavar="CARDS", callback=_checked_cards, help="Only these: 'L4, RTX 4090'.")
@click.option("--price", type=click.Choice(["rent", "buy"]), default="rent", show_default=True)
@click.option("--documents", is_flag=True, help="Also what the owner's plans really carry.")
@click.option("--what-if", is_flag=True, help="Also other hit rates, weights, slots, contexts and lengths.")
@click.option("--prices", is_flag=True, help="Also the cards' prices and where they were read.")
@click.option("--markdown", is_flag=True, help="As Markdown.")
@JSON
def capacity(**given: Any) -> None:
    """The cheapest cards for so many users within so many seconds, as predicted. Changes nothing."""
    from orchestrator.cli.capacity import run_asked

    sys.exit(run_asked(given))


@main.group(invoke_without_command=True)
@STATE
@CONFIG
@JSON
@click.pass_context
def nodes(ctx: click.Context, state: Path, config: Path | None, as_json: bool) -> None:
    """What the hosts have, looked at now: memory, driver, GPUs, what already runs there."""
    if ctx.invoked_subcommand is None:
        from orchestrator.cli.nodes import run_nodes

        sys.exit(run_nodes(state, _config(config), as_json=as_json))


@nodes.command("add")
@click.argument("name")
@STATE
@CONFIG
@click.option("--host", default=None, help="Host or host:port of its sshd; a node that is there already has one.")
@click.option("--user", default=None, help="Who logs in, with sudo.  [default: as `ssh` would]")
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Private key to log in with."
)
@click.option(
    "--fingerprint", default=None, metavar="SHA256:…", help="What its host key must be; replaces a pinned one."
)
@click.option("--yes", is_flag=True, help="Trust the key it shows at the first contact; never one that changed.")
def nodes_add(
    name: str,
    state: Path,
    config: Path | None,
    host: str | None,
    user: str | None,
    key: Path | None,
    fingerprint: str | None,
    yes: bool,
) -> None:
    """Check a host (SSH, sudo, python3, driver) and write it into cluster.yaml."""
    from orchestrator.cli.nodes import Addition, run_add

    sys.exit(run_add(state, _config(config), Addition(name, host, user, key, fingerprint, yes)))


@main.command()
@STATE
@CONFIG
@JSON
def gpus(state: Path, config: Path | None, as_json: bool) -> None:
    """Every GPU and MIG device with what is free on it, and who holds the rest."""
    from orchestrator.cli.nodes import run_gpus

    sys.exit(run_gpus(state, _config(config), as_json=as_json))


@main.group()
def route() -> None:
    """How hard a question is, and where it would go."""


@route.command("explain")
@click.argument("question")
@CONFIG
@click.option("--route", "name", default="", metavar="NAME", help="Only this route.  [default: all of them]")
@JSON
def route_explain(question: str, config: Path | None, name: str, as_json: bool) -> None:
    """Difficulty, type, language and tier of QUESTION, each with its reasons. Asks nobody."""
    from orchestrator.cli.route import run_explain

    sys.exit(run_explain(_config(config), question, name, as_json=as_json))


@route.command("score")
@click.option("--in", "questions", type=click.Path(path_type=Path, allow_dash=True), required=True, metavar="FILE")
@click.option("--out", "scores", type=click.Path(path_type=Path, allow_dash=True), required=True, metavar="FILE")
@click.option("--after-answer", is_flag=True, help="Judge each line's `weak_answer`, not its prompt alone.")
def route_score(questions: Path, scores: Path, after_answer: bool) -> None:
    """Score JSON lines {id, prompt} as {id, score}, the harder the higher. `-` is standard input or output."""
    from orchestrator.cli.route import run_score

    sys.exit(run_score(questions, scores, after_answer=after_answer))


@main.group()
def nginx() -> None:
    """nginx before the cluster: TLS, HTTP/2, limits by address, a log of JSON lines."""


DIRECT = click.option("--direct", is_flag=True, help="Straight over the instances of one model, without a gateway.")
MODEL = click.option("--model", default=None, help="The model, with --direct where there are several.")


@nginx.command("render")
@CONFIG
@STATE
@DIRECT
@MODEL
@ENDPOINT
@KEY
@click.option(
    "--output", type=click.Path(path_type=Path, allow_dash=True), default="-", help="File to write.  [default: stdout]"
)
def nginx_render(
    config: Path | None, state: Path, direct: bool, model: str | None, endpoint: str | None, key: str, output: Path
) -> None:
    """Print the file that `install` would put in place. Changes nothing."""
    from orchestrator.cli.nginx import Asked, run_render

    sys.exit(run_render(Asked(_config(config), state, direct, model, endpoint, key), output))


@nginx.command("check")
@CONFIG
@STATE
@DIRECT
@MODEL
@ENDPOINT
@KEY
def nginx_check(
    config: Path | None, state: Path, direct: bool, model: str | None, endpoint: str | None, key: str
) -> None:
    """Let `nginx -t` read that file, in a folder of its own. Changes nothing."""
    from orchestrator.cli.nginx import Asked, run_check

    sys.exit(run_check(Asked(_config(config), state, direct, model, endpoint, key)))


@nginx.command("install")
@CONFIG
@STATE
@DIRECT
@MODEL
@ENDPOINT
@KEY
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/nginx/conf.d/ollama-cluster.conf"),
    show_default=True,
    help="Where nginx reads it.",
)
@click.option(
    "--nginx-conf", type=click.Path(path_type=Path, dir_okay=False), default=None, help="nginx' main file (nginx -c)."
)
@click.option("--force", is_flag=True, help="Also over a file that was written by somebody else.")
@click.option("--watch", is_flag=True, help="With --direct: stay, and do it again as instances come and go.")
def nginx_install(
    config: Path | None,
    state: Path,
    direct: bool,
    model: str | None,
    endpoint: str | None,
    key: str,
    file: Path,
    nginx_conf: Path | None,
    force: bool,
    watch: bool,
) -> None:
    """Put the file in place, checked, and reload nginx; where nginx refuses it, all is as before."""
    from orchestrator.cli.nginx import Asked, run_install

    asked = Asked(_config(config), state, direct, model, endpoint, key)
    sys.exit(run_install(asked, file, nginx_conf, is_forced=force, is_watching=watch and direct))


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


FAQ_FILES = click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="This file instead of the configuration's; may be given again.",
)


@main.group()
def faq() -> None:
    """Curated answers: check, list and try them, bring them in, write them out."""


@faq.command("check")
@CONFIG
@FAQ_FILES
def faq_check(config: Path | None, files: tuple[Path, ...]) -> None:
    """Check the files: every mistake with its line, and entries that could be taken for one another."""
    from datetime import UTC, datetime

    from orchestrator.cli.faq import faq_files, run_check

    sys.exit(run_check(faq_files(_config(config), files), today=datetime.now(UTC).date()))


@faq.command("list")
@CONFIG
@FAQ_FILES
@click.option("--tag", default="", help="Only entries with this tag.")
@click.option("--language", type=click.Choice(["tr", "en"]), default=None, help="Only entries in this language.")
@JSON
def faq_list(config: Path | None, files: tuple[Path, ...], tag: str, language: str | None, as_json: bool) -> None:
    """The entries, one a row; with --json, one object a line."""
    from orchestrator.cli.faq import faq_files, run_list

    sys.exit(run_list(faq_files(_config(config), files), tag=tag, language=language or "", as_json=as_json))


@faq.command("test")
@click.argument("question")
@CONFIG
@FAQ_FILES
@click.option("--on", type=click.DateTime(["%Y-%m-%d"]), default=None, help="As of this day.  [default: today]")
@click.option("--word-for-word", is_flag=True, help="Without paraphrases.")
@JSON
def faq_test(
    question: str, config: Path | None, files: tuple[Path, ...], on: Any, word_for_word: bool, as_json: bool
) -> None:
    """What QUESTION is answered and how it was found, or why not: the nearest entries, and what speaks against them."""
    from datetime import UTC, datetime

    from orchestrator.cli.faq import faq_files, run_test

    today = (on or datetime.now(UTC)).date()
    is_wide = not word_for_word
    sys.exit(run_test(faq_files(_config(config), files), question, today=today, paraphrases=is_wide, as_json=as_json))


@faq.command("import")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@CONFIG
@click.option(
    "--into",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="File to add to, made where it is not there.  [default: the one that `cache.faq` names]",
)
def faq_import(sources: tuple[Path, ...], config: Path | None, into: Path | None) -> None:
    """Add the entries of SOURCES (.yaml, .csv, .jsonl) to a FAQ file: all, or none where one is wrong."""
    from orchestrator.cli.faq import import_target, run_import

    sys.exit(run_import(sources, import_target(_config(config), into)))


@faq.command("export")
@CONFIG
@FAQ_FILES
@click.option("--format", "wanted", type=click.Choice(["yaml", "csv", "jsonl"]), default=None)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=None, help="[default: the screen]")
def faq_export(config: Path | None, files: tuple[Path, ...], wanted: str | None, output: Path | None) -> None:
    """All entries as one file."""
    from orchestrator.cli.faq import faq_files, run_export

    sys.exit(run_export(faq_files(_config(config), files), wanted or "", output))


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
