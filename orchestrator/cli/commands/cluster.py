"""A cluster on this machine: started, ended, looked at and asked."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli.options import (
    CONFIG,
    DETACH,
    ENDPOINT,
    JSON,
    KEY,
    LISTEN,
    OPEN,
    READY_FILE,
    STATE,
    checked_cards,
)


@click.command()
@STATE
@CONFIG
@LISTEN
@OPEN
@click.option(
    "--simulate",
    default=None,
    metavar="CARDS",
    callback=checked_cards,
    help='Play cards instead of engines: "3x RTX 4090, 1x A100-40GB".',
)
@DETACH
@READY_FILE
def up(
    state: Path,
    config: Path | None,
    listen: str | None,
    is_open: bool,
    simulate: str | None,
    detach: bool,
    ready_file: Path | None,
) -> None:
    """Start the cluster on this machine and stay until Ctrl-C."""
    from orchestrator.app.live_settings import Wish
    from orchestrator.cli.up import run_up

    sys.exit(run_up(Wish(state, config, listen, simulate, ready_file, is_open=is_open), detach=detach))


@click.command()
@STATE
@CONFIG
@LISTEN
@OPEN
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=None,
    help="Gateway processes that share the port.  [default: `gateway.workers`, 2 unless set]",
)
@DETACH
@READY_FILE
def gateway(
    state: Path,
    config: Path | None,
    listen: str | None,
    is_open: bool,
    workers: int | None,
    detach: bool,
    ready_file: Path | None,
) -> None:
    """Balance the `instances` of the configuration, which run already, and deploy nothing; stay until Ctrl-C."""
    from orchestrator.app.live_settings import Wish
    from orchestrator.cli.up import run_up

    wish = Wish(state, config, listen, None, ready_file, workers=workers, only_balances=True, is_open=is_open)
    sys.exit(run_up(wish, detach=detach))


@click.command()
@STATE
def down(state: Path) -> None:
    """End the cluster that runs with --state, and wait until it has."""
    from orchestrator.cli.up import run_down

    sys.exit(run_down(state))


@click.command()
@STATE
@ENDPOINT
@KEY
@JSON
def status(state: Path, endpoint: str | None, key: str, as_json: bool) -> None:
    """What runs, what it is doing, what is on and what is off."""
    from orchestrator.cli.status import run_status

    sys.exit(run_status(state, endpoint, key, as_json=as_json))


@click.command()
@STATE
@ENDPOINT
@KEY
def top(state: Path, endpoint: str | None, key: str) -> None:
    """The cluster each second, until Ctrl-C; into a pipe, once."""
    from orchestrator.cli.top import run_top

    sys.exit(run_top(state, endpoint, key))


@click.command()
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

    sys.exit(run_doctor(state, config, key, as_json=as_json, is_all=is_all))


@click.command()
@STATE
@ENDPOINT
@KEY
@JSON
def queue(state: Path, endpoint: str | None, key: str, as_json: bool) -> None:
    """Who waits for which model, how long, and how busy its slots are."""
    from orchestrator.cli.queue import run_queue

    sys.exit(run_queue(state, endpoint, key, as_json=as_json))


@click.command()
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
