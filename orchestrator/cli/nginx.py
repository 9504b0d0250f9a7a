"""`ollamactl nginx`: nginx before the cluster, or straight over the instances of one model."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click
from rich.console import Console

from orchestrator.app.following_nginx import Followed, follow
from orchestrator.app.fronting import choose_pool, given_pools, published_pools, site_of
from orchestrator.app.keys import place_of
from orchestrator.app.paths import StatePaths
from orchestrator.cli.output import console, errors, literal
from orchestrator.cli.status import endpoint_of, fetch_status, key_of
from orchestrator.core.errors import HostError
from orchestrator.core.nginx import Site, render, without_gateway
from orchestrator.nodes.nginx import Nginx, find_nginx
from orchestrator.settings import ClusterSettings, load


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


def run_install(asked: Asked, file: Path, main: Path | None, *, is_forced: bool) -> int:
    """Put it in place, checked, and reload nginx."""
    nginx = _nginx(main)
    console.print(f"{file}: {nginx.install(render(_site(asked, nginx)), file, is_forced=is_forced)}")
    _warn_if_open(asked)
    return 0


def _warn_if_open(asked: Asked) -> None:
    """Other machines reach nginx, wherever the gateway behind it listens."""
    settings, paths = load(asked.config) if asked.config is not None else ClusterSettings(), StatePaths(asked.state)
    has_keys = settings.keys or settings.open is not None or place_of(settings, paths).exists()
    if not (asked.is_direct or has_keys):
        errors.print(
            "[yellow]there are no API keys: whoever reaches nginx may ask; `ollamactl keys create NAME`[/yellow]"
        )


def run_follow(asked: Asked, file: Path, main: Path | None, *, is_forced: bool) -> int:
    """Stay until SIGTERM or Ctrl-C, and install again whenever instances or settings change."""
    paths = StatePaths(asked.state)
    settings_file = paths.settings if asked.config is None else asked.config
    if asked.config is None and not settings_file.exists():
        raise HostError(
            f"no cluster ran with --state {asked.state} yet; start one with `ollamactl up`, or name --config"
        )
    followed = Followed(
        settings_file, paths, lambda: _nginx(main), file, asked.is_direct, asked.model, is_forced=is_forced
    )
    asyncio.run(_follow(followed, load(settings_file)))
    return 0


async def _follow(followed: Followed, settings: ClusterSettings) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    what = "the instances" if followed.is_direct else "the gateways"
    console.print(literal(f"{followed.file} follows {what} of {followed.settings_file}; Ctrl-C ends it"))
    await follow(followed, settings, stop, _printer(console), _printer(errors))


def _printer(where: Console) -> Callable[[str], None]:
    return lambda line: where.print(literal(line), soft_wrap=True)


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
        key = key_of(asked.state, asked.endpoint, asked.key)
        pools = published_pools(asyncio.run(fetch_status(endpoint_of(asked.state, asked.endpoint), key)))
    return without_gateway(site, *choose_pool(pools, asked.model))
