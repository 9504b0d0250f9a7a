"""The settings of a running `up`: found at the start, followed from then on, put in force whole or not at all."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.app.rules import rules_from
from orchestrator.core.errors import HostError, SettingsError, StoreError
from orchestrator.core.model import Engine
from orchestrator.fleet.engines import find_engine
from orchestrator.fleet.inventory import take_inventory
from orchestrator.fleet.wanted import engine_of, shape_of
from orchestrator.nodes.keeper import Keeper
from orchestrator.nodes.weights import ollama_models_dir
from orchestrator.settings import ClusterSettings, NodeSettings, load
from orchestrator.settings.defaults import default_settings
from orchestrator.settings.live import live_part, needs_restart
from orchestrator.settings.watch import SettingsWatch


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks of `up`."""

    state: Path
    config: Path | None  # cluster.yaml, where there is one
    listen: str | None
    simulate: str | None
    ready_file: Path | None
    workers: int | None = None
    only_balances: bool = False  # servers that run already, and nothing is deployed


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings to run by, and the file's own, without what the command line put in their place."""

    settings: ClusterSettings
    of_file: ClusterSettings | None


class Telling(Protocol):
    """Where the operator reads what became of a change."""

    def tell(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


async def resolve_settings(wish: Wish) -> Resolved:
    """The settings asked for: the file's, or defaults that fit this machine. Raises SettingsError, HostError."""
    if wish.config is not None:
        of_file = load(wish.config)
        _check_command_line(of_file, wish)
        resolved = Resolved(with_command_line(of_file, wish), of_file)
    elif wish.only_balances:
        raise SettingsError("there is no cluster.yaml here; name one with --config, with the `instances` to serve")
    else:
        nodes = (NodeSettings(name="sim", simulate=wish.simulate) if wish.simulate else NodeSettings(name="local"),)
        facts = await take_inventory(nodes, ollama_models_dir())
        engine = Engine.OLLAMA if wish.simulate else find_engine("auto").kind
        resolved = Resolved(with_command_line(default_settings(facts, engine, wish.simulate), wish), None)
    check_here(resolved.settings)
    return resolved


def _check_command_line(settings: ClusterSettings, wish: Wish) -> None:
    """Raise SettingsError where file and command line do not go together."""
    if wish.only_balances and not settings.instances:
        raise SettingsError(
            f"{wish.config}: names no `instances`, and `ollamactl gateway` serves nothing else; add them, such as "
            "instances: [{url: http://10.0.0.5:11434}], or deploy with `ollamactl up`"
        )
    if wish.simulate is not None and settings.instances:
        raise SettingsError(f"{wish.config}: names `instances` that run already; leave --simulate or them out")


def with_command_line(settings: ClusterSettings, wish: Wish) -> ClusterSettings:
    """The settings with what the command line says in their place."""
    changes: dict[str, object] = {}
    if wish.listen is not None:
        changes["listen"] = wish.listen
    if wish.simulate is not None:
        changes["nodes"] = (NodeSettings(name="sim", simulate=wish.simulate),)
    if wish.workers is not None:
        changes["gateway"] = settings.gateway.model_copy(update={"workers": wish.workers})
    return settings.model_copy(update=changes)


def check(settings: ClusterSettings) -> None:
    """What the file alone does not tell: whether the FAQ's files are valid. Raises SettingsError."""
    rules_from(settings)


def check_here(settings: ClusterSettings) -> None:
    """As `check`, and whether this machine can size every model. Raises SettingsError, HostError."""
    check(settings)
    if settings.instances:
        return
    is_simulated = any(node.simulate for node in settings.nodes)
    engine = engine_of(settings)
    for name, model in settings.models.items():
        shape_of(name, model, engine, is_simulated=is_simulated)


def _refuse_other_kind(old: ClusterSettings, new: ClusterSettings) -> None:
    if bool(old.instances) != bool(new.instances):
        raise SettingsError(
            "`instances`: a running cluster either deploys or balances servers that run already; start it again"
        )


class LiveSettings:
    """Follows the file, and puts each valid change in force in every child."""

    def __init__(self, wish: Wish, resolved: Resolved, paths: StatePaths, keeper: Keeper, screen: Telling) -> None:
        self._wish, self._paths, self._keeper, self._screen = wish, paths, keeper, screen
        self._in_force = resolved.settings
        self._poked = asyncio.Event()
        self._watch = SettingsWatch(wish.config, resolved.of_file) if wish.config is not None else None

    def reload(self) -> None:
        """SIGHUP: read the settings and the FAQ's files again, changed or not."""
        if self._watch is not None:
            self._watch.poke()
        self._poked.set()

    async def follow(self, publish: Callable[[str | None], Awaitable[None]]) -> None:
        """Until cancelled. `publish` puts what is wrong with the file, or None, where `status` shows it."""
        await self._tell(publish, None)
        async with aclosing(self._changes()) as changes:
            async for changed in changes:
                await self._tell(publish, self._apply(changed))

    async def _tell(self, publish: Callable[[str | None], Awaitable[None]], problem: str | None) -> None:
        try:
            await publish(problem)
        except StoreError as why:
            self._screen.warn(f"`status` does not show what became of the settings: {why}")

    async def _changes(self) -> AsyncGenerator[ClusterSettings | SettingsError, None]:
        if self._watch is not None:
            async with aclosing(self._watch.changes()) as changes:
                async for changed in changes:
                    yield changed
        while True:  # defaults: no file to follow, but the FAQ's may have changed
            await self._poked.wait()
            self._poked.clear()
            yield self._in_force

    def _apply(self, changed: ClusterSettings | SettingsError) -> str | None:
        """Put changed settings in force, or keep the old ones and answer why."""
        try:
            if isinstance(changed, SettingsError):
                raise changed
            new = with_command_line(changed, self._wish)
            _refuse_other_kind(self._in_force, new)
            check_here(new)
        except (SettingsError, HostError) as why:
            problem = f"the changed settings are refused, the old ones stay in force:\n{why}"
            self._screen.warn(problem)
            return problem
        for sentence in needs_restart(self._in_force, new):
            self._screen.warn(sentence)
        self._in_force = live_part(self._in_force, new)
        settings_in_use.write(self._paths, self._in_force)
        for unit in self._keeper.status():
            if unit.pid is not None and unit.name.startswith(("gateway-", "controller")):
                os.kill(unit.pid, signal.SIGHUP)
        self._screen.tell("the changed settings are in force")
        return None
