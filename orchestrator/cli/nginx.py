"""`ollamactl nginx`: nginx before the cluster, or straight over the instances of one model."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path

import click

from orchestrator.app.fronting import choose_pool, given_pools, published_pools, site_of
from orchestrator.cli.output import console, errors
from orchestrator.cli.status import endpoint_of, fetch_status
from orchestrator.core.errors import HostError
from orchestrator.core.nginx import Site, render, without_gateway
from orchestrator.nodes.nginx import Nginx, find_nginx
from orchestrator.settings import ClusterSettings, load

LOOKS_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for; `is_direct` with `model`, and the cluster that knows its instances."""

    config: Path | None
    state: Path
    is_direct: bool = False
    model: str | None = None
    endpoint: str | None = None
    key: str = ""


def run_render(asked: Asked, output: Path, version: tuple[int, int, int] | None = None) -> int:
    """Print the file, or write it to `output`, for nginx of `version` or this machine's; none need be here."""
    site = _site(asked, None if version is not None else find_nginx())
    text = render(site if version is None else replace(site, version=version))
    if output == Path("-"):
        click.echo(text, nl=False)
    else:
        try:
            output.write_text(text)
        except OSError as why:
            raise HostError(f"cannot write {output}: {why.strerror}") from why
    return 0


def run_check(asked: Asked) -> int:
    """Let nginx read what would be installed. Nothing is left of it."""
    nginx = _nginx(None)
    # nginx opens logs to check them: a log that is not there yet would be made, and be root's.
    nginx.check(render(replace(_site(asked, nginx), access_log="/dev/null")))
    console.print("nginx takes it")
    return 0


def run_install(asked: Asked, file: Path, main: Path | None, *, is_forced: bool, is_watching: bool) -> int:
    """Put it in place, checked, and reload nginx; `is_watching` until Ctrl-C, whenever instances come and go."""
    nginx = _nginx(main)
    console.print(f"{file}: {nginx.install(render(_site(asked, nginx)), file, is_forced=is_forced)}")
    told = ""
    while is_watching:
        time.sleep(LOOKS_EVERY_S)
        now = _installed_anew(asked, nginx, file)
        if now != told and now:
            errors.print(now)
        told = now
    return 0


def _installed_anew(asked: Asked, nginx: Nginx, file: Path) -> str:
    """What is in the way of following the cluster, or nothing: then what was installed last serves on."""
    try:
        became = nginx.install(render(_site(asked, nginx)), file)
    except HostError as why:
        return str(why)
    except SystemExit:  # nobody answers; `fetch_status` has said so
        return "the instances last installed serve on"
    if became != became.UNCHANGED:
        console.print(f"{file}: {became}")
    return ""


def _nginx(main: Path | None) -> Nginx:
    found = find_nginx(main)
    if found is None:
        raise HostError("nginx is not installed here; install it (`apt install nginx-light`), or use `render --output`")
    return found


def _site(asked: Asked, nginx: Nginx | None) -> Site:
    settings = load(asked.config) if asked.config is not None else ClusterSettings()
    site = site_of(settings, (0, 0, 0) if nginx is None else nginx.version())
    if not asked.is_direct:
        return site
    if settings.instances:
        pools = given_pools(settings)
    else:
        pools = published_pools(asyncio.run(fetch_status(endpoint_of(asked.state, asked.endpoint), asked.key)))
    return without_gateway(site, *choose_pool(pools, asked.model))
