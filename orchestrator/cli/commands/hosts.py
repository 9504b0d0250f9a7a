"""The hosts of a cluster: what they have, and one more of them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli.options import CONFIG, JSON, STATE


@click.group(invoke_without_command=True)
@STATE
@CONFIG
@JSON
@click.pass_context
def nodes(ctx: click.Context, state: Path, config: Path | None, as_json: bool) -> None:
    """What the hosts have, looked at now: memory, driver, GPUs, what already runs there."""
    if ctx.invoked_subcommand is None:
        from orchestrator.cli.nodes import run_nodes

        sys.exit(run_nodes(state, config, as_json=as_json))


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

    sys.exit(run_add(state, config, Addition(name, host, user, key, fingerprint, yes)))


@nodes.command("renew-authority")
@STATE
def nodes_renew_authority(state: Path) -> None:
    """Have another authority sign what hosts and gateways show each other (`deploy.tls`), without an outage.

    Waits until nobody trusts the one before it. Whoever ends it before leaves that to the controller.
    """
    from orchestrator.cli.operate import run_renew_authority

    sys.exit(run_renew_authority(state))


@nodes.command("restrict")
@click.argument("name")
@STATE
@CONFIG
@click.option("--by", default=None, help="Who logs in for this, with sudo or as root.  [default: the node's `user`]")
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Private key of --by to log in with."
)
@click.option("--undo", is_flag=True, help="Take the restriction away again; needs --by.")
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Write the files into this folder instead, for whoever puts them there by other means.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def nodes_restrict(
    name: str,
    state: Path,
    config: Path | None,
    by: str | None,
    key: Path | None,
    undo: bool,
    into: Path | None,
    yes: bool,
) -> None:
    """Have the node's `user` do there as root what ollamactl does with instances, and nothing else.

    Again after an upgrade of ollamactl, and where models_dir, deploy.user or the firewall change.
    """
    from orchestrator.cli.restricting import Wanted, run_restrict

    sys.exit(run_restrict(state, config, name, Wanted(by, key, into, is_undone=undo, is_agreed=yes)))


@click.command()
@STATE
@CONFIG
@JSON
def gpus(state: Path, config: Path | None, as_json: bool) -> None:
    """Every GPU and MIG device with what is free on it, and who holds the rest."""
    from orchestrator.cli.nodes import run_gpus

    sys.exit(run_gpus(state, config, as_json=as_json))
