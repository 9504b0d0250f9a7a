"""The settings of a running `up`: found at the start, followed from then on, put in force whole or not at all."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from orchestrator.app import settings_in_use
from orchestrator.app.keys import (
    NO_FILE,
    KeptKeys,
    joined,
    kept_of,
    own_of,
    parse_keys,
    place_of,
    read_keys,
    read_text,
    refuse_open_endpoint,
)
from orchestrator.app.paths import StatePaths
from orchestrator.app.rules import rules_from
from orchestrator.core.errors import HostError, SettingsError, StoreError
from orchestrator.core.model import Engine
from orchestrator.fleet.engines import find_engine
from orchestrator.fleet.inventory import take_inventory
from orchestrator.fleet.wanted import engine_of, shape_of
from orchestrator.nodes.keeper import Keeper
from orchestrator.nodes.state_lock import read_holder
from orchestrator.nodes.weights import ollama_models_dir
from orchestrator.settings import ClusterSettings, NodeSettings, load
from orchestrator.settings.defaults import default_settings
from orchestrator.settings.live import live_part, needs_restart
from orchestrator.settings.looking import Looked, look
from orchestrator.settings.watch import FileWatch, SettingsWatch


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
    is_open: bool = False  # anybody may ask without a key, wherever it listens


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings to run by, and what they are made of."""

    settings: ClusterSettings
    of_file: ClusterSettings | None  # without what the command line put in its place
    own: ClusterSettings  # without the keys that are kept in a file of their own
    kept: KeptKeys = NO_FILE


class Telling(Protocol):
    """Where the operator reads what became of a change."""

    def tell(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


async def resolve_settings(wish: Wish) -> Resolved:
    """The settings asked for: the file's, or defaults that fit this machine. Raises SettingsError, HostError."""
    if wish.config is not None:
        of_file = load(wish.config)
        _check_command_line(of_file, wish)
        own = with_command_line(of_file, wish)
    elif wish.only_balances:
        raise SettingsError("there is no cluster.yaml here; name one with --config, with the `instances` to serve")
    else:
        nodes = (NodeSettings(name="sim", simulate=wish.simulate) if wish.simulate else NodeSettings(name="local"),)
        facts = await take_inventory(nodes, ollama_models_dir())
        engine = Engine.OLLAMA if wish.simulate else find_engine("auto").kind
        of_file, own = None, with_command_line(default_settings(facts, engine, wish.simulate), wish)
    check_here(own)
    return Resolved(own, of_file, own)


async def settings_to_look_at(config: Path | None, state: Path | None = None, simulate: str | None = None) -> Looked:
    """The file's settings, those of the cluster that runs with the folder `state`, or the defaults.

    For who asks nobody with the secrets in them: those of this shell may be missing. Raises SettingsError, HostError.
    """
    wish = Wish(Path(), config, None, simulate, None)
    if config is None and state is not None and read_holder(state) is not None:
        return Looked(settings_in_use.read(StatePaths(state)))
    if config is None:
        return Looked((await resolve_settings(wish)).settings)
    looked = look(config)
    _check_command_line(looked.settings, wish)
    settings = with_command_line(looked.settings, wish)
    check_here(settings)
    return replace(looked, settings=settings)


def with_kept_keys(resolved: Resolved, paths: StatePaths) -> Resolved:
    """The settings of an endpoint: with the keys that are kept beside them, and not open for want of any.

    Raises SettingsError.
    """
    own = resolved.own
    kept = read_keys(place_of(own, paths), is_needed=own.keys_file is not None)
    settings = joined(own, kept)
    refuse_open_endpoint(settings)
    return replace(resolved, settings=settings, kept=kept)


def as_before(in_use: ClusterSettings, paths: StatePaths) -> Resolved:
    """What a supervisor goes on with that takes over from another: what the files say by now is a change to it."""
    own, keys = in_use.model_copy(update={"keys": own_of(in_use)}), kept_of(in_use)
    kept = KeptKeys(keys, is_there=bool(keys) or place_of(own, paths).exists())
    return Resolved(in_use, own, own, kept)


def file_behind(own: ClusterSettings, wish: Wish) -> ClusterSettings:
    """What the file says where that is what runs already; otherwise what runs, to which the file is a change."""
    try:
        of_file = load(wish.config) if wish.config is not None else own
    except SettingsError:
        return own  # whoever follows the file says what is wrong with it
    return of_file if with_command_line(of_file, wish) == own else own


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
    if wish.is_open and not settings.keys and not settings.issuers:
        changes["open"] = True
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


Publish = Callable[[str | None], Awaitable[None]]


class LiveSettings:
    """Follows the settings' file and that of keys, and puts each valid change in force in every child."""

    def __init__(self, wish: Wish, resolved: Resolved, paths: StatePaths, keeper: Keeper, screen: Telling) -> None:
        self._wish, self._paths, self._keeper, self._screen = wish, paths, keeper, screen
        self._own, self._kept = resolved.own, resolved.kept  # what is in force
        self._poked = asyncio.Event()
        self._watch = SettingsWatch(wish.config, resolved.of_file) if wish.config is not None else None
        place = place_of(resolved.own, paths)
        self._keys = FileWatch(place, partial(read_text, place), partial(parse_keys, path=place), resolved.kept)
        self._problems: dict[str, str | None] = {}

    def reload(self) -> None:
        """SIGHUP: read the settings, the FAQ's files and the keys again, changed or not."""
        if self._watch is not None:
            self._watch.poke()
        self._poked.set()
        self._keys.poke()

    async def follow(self, publish: Publish) -> None:
        """Until cancelled. `publish` puts what is wrong with the files, or None, where `status` shows it."""
        await self._tell(publish, "settings", None)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_settings(publish))
            tasks.create_task(self._follow_keys(publish))

    async def _follow_settings(self, publish: Publish) -> None:
        async with aclosing(self._changes()) as changes:
            async for changed in changes:
                await self._tell(publish, "settings", self._apply(changed))

    async def _follow_keys(self, publish: Publish) -> None:
        async with aclosing(self._keys.changes()) as changes:
            async for changed in changes:
                await self._tell(publish, "keys", self._apply_keys(changed))

    async def _tell(self, publish: Publish, file: str, problem: str | None) -> None:
        self._problems[file] = problem
        try:
            await publish("\n".join(filter(None, self._problems.values())) or None)
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
            yield self._own

    def _apply(self, changed: ClusterSettings | SettingsError) -> str | None:
        """Put changed settings in force, or keep the old ones and answer why."""
        try:
            if isinstance(changed, SettingsError):
                raise changed
            new = with_command_line(changed, self._wish)
            _refuse_other_kind(self._own, new)
            whole = joined(new, self._kept)
            refuse_open_endpoint(joined(live_part(self._own, new), self._kept))  # by the socket that stays open
            check_here(whole)
        except (SettingsError, HostError) as why:
            problem = f"the changed settings are refused, the old ones stay in force:\n{why}"
            self._screen.warn(problem)
            return problem
        for sentence in needs_restart(self._own, new):
            self._screen.warn(sentence)
        self._own = live_part(self._own, new)
        settings_in_use.write(self._paths, joined(self._own, self._kept))
        self._have_read_again(("gateway-", "controller"))
        self._screen.tell("the changed settings are in force")
        return None

    def _apply_keys(self, changed: KeptKeys | SettingsError) -> str | None:
        """Put changed keys in force, or keep the old ones and answer why."""
        try:
            if isinstance(changed, SettingsError):
                raise changed
            if self._kept.is_there and not changed.is_there:
                raise SettingsError(f"{place_of(self._own, self._paths)}: is gone; bring it back, or start again")
            whole = joined(self._own, changed)
        except SettingsError as why:
            problem = f"the changed keys are refused, the old ones stay in force:\n{why}"
            self._screen.warn(problem)
            return problem
        if changed != self._kept:
            self._kept = changed
            settings_in_use.write_keys(self._paths, whole)
            self._have_read_again(("gateway-",))
            self._screen.tell(f"the changed keys are in force: there are {len(changed.keys)}")
        return None

    def _have_read_again(self, names: tuple[str, ...]) -> None:
        for unit in self._keeper.status():
            if unit.pid is not None and unit.name.startswith(names):
                os.kill(unit.pid, signal.SIGHUP)
