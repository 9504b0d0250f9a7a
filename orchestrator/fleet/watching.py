"""One server that somebody else runs, looked at again and again: whether it answers, what it has, what is in memory.

It knows what was seen last. What is offered of that, and what is loaded there, is left to others.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.errors import InstanceError
from orchestrator.core.health import Health, after_probe
from orchestrator.core.model import Engine, Event, InstanceState, Moment
from orchestrator.fleet.describe import details_of
from orchestrator.fleet.servers import Server
from orchestrator.fleet.tasks import within
from orchestrator.nodes.given_api import GivenApi, Listed, embeds_only, remote_of, weights_of
from orchestrator.settings.section import MODEL_NAME

log = logging.getLogger(__name__)

_CALLABLE = re.compile(MODEL_NAME)
_UNCALLABLE = re.compile(r"[^A-Za-z0-9._:@-]+")

LOOK_EVERY_S = 1.0
# What it has changes seldom, and a list of many models is work for it.
LIST_EVERY_S = 2.0
ALIVE_WITHIN_S = 3.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 5.0


@dataclass(frozen=True, slots=True)
class Model:
    """A model on the server. `details`: `tags` and `show` as /api/tags and /api/show word them."""

    listed: Listed
    details: Mapping[str, Any]
    weights: str  # digest; '' not told
    is_embedding: bool | None  # None: not told
    remote_host: str = ""  # who serves it in truth


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen last. Models are named as pools are."""

    state: InstanceState = InstanceState.STARTING
    reason: str = ""
    engine: Engine | None = None
    version: str = ""
    models: Mapping[str, Model] = field(default_factory=dict)
    running: Mapping[str, Mapping[str, Any]] | None = None  # /api/ps; None: it does not tell
    slots: int = 0  # of each model, 0: not told
    context: int = 0  # of a slot, 0: not told

    @property
    def is_up(self) -> bool:
        return self.state is InstanceState.SERVING

    @property
    def resident(self) -> frozenset[str]:
        """Models in memory, under whatever name of their weights."""
        running = self.running or {}
        weights = {self.models[name].weights for name in running if name in self.models} - {""}
        return frozenset(name for name, each in self.models.items() if name in running or each.weights in weights)

    @property
    def strangers(self) -> int:
        """Models in memory that are none of ours."""
        return sum(name not in self.models for name in self.running or {})


class Watched:
    """Keeps `sight` true. `run` is its life, to be cancelled."""

    def __init__(
        self, server: Server, api: GivenApi, on_change: Callable[[], None], record: Callable[[Event], None]
    ) -> None:
        self.server = server
        self.sight = Sight(engine=server.engine)
        self._api, self._on_change, self._record = api, on_change, record
        self._one_look, self._poked = asyncio.Lock(), asyncio.Event()
        self._health = Health()
        self._listed_s = float("-inf")
        self._tells_memory = True

    async def run(self) -> None:
        """Look until cancelled; less often while it is down."""
        retry_s = FIRST_RETRY_S
        while True:
            pause_s = LOOK_EVERY_S
            try:
                await self.look()
                retry_s = FIRST_RETRY_S
            except InstanceError as why:
                self._missed(why)
                if not self.sight.is_up:
                    pause_s, retry_s = retry_s, min(retry_s * 2, LONGEST_RETRY_S)
            await within(pause_s, self._poked)  # nothing tells of a change there
            self._poked.clear()

    def is_now(self, server: Server) -> None:
        """The settings say something else of it."""
        self.server = server
        self._listed_s = float("-inf")
        self._poked.set()

    async def look(self) -> Sight:
        """See it now. Raises InstanceError where it does not answer."""
        async with self._one_look:
            seen = await self._seen()
            self._health = after_probe(self._health, None)
            self._become(seen)
            return seen

    async def list_anew(self) -> None:
        """See now what it has. Raises InstanceError where it does not answer."""
        self._listed_s = float("-inf")
        await self.look()

    def does_not_tell_memory(self) -> None:
        """/api/ps was found not to tell what is loaded: all of its models are served at any time from now on."""
        log.warning("%s: /api/ps does not list a model that was just loaded; what is loaded is left to it", self.name)
        self._tells_memory = False
        self._become(replace(self.sight, running=None))

    @property
    def name(self) -> str:
        return self.server.name

    # --- a look ------------------------------------------------------------------------------------------------------

    async def _seen(self) -> Sight:
        last = self.sight
        try:
            async with asyncio.timeout(ALIVE_WITHIN_S):
                engine, version = await self._alive(last)
        except TimeoutError as why:
            raise InstanceError(self.name, f"did not answer within {ALIVE_WITHIN_S:g} s") from why
        seen = replace(last, state=InstanceState.SERVING, reason="", engine=engine, version=version)
        if not last.is_up or time.monotonic() - self._listed_s >= LIST_EVERY_S:
            seen = await self._with_models(seen, last, engine)
        return replace(seen, running=await self._running(engine, last))

    async def _alive(self, last: Sight) -> tuple[Engine, str]:
        """What it is, asked anew after each time that it was away, and its version."""
        engine = self.server.engine or (last.engine if last.is_up else None)
        if engine is None:
            engine = await self._api.engine_of(self.server.instance())
        return engine, await self._api.lives(self.server.instance(engine=engine))

    async def _with_models(self, seen: Sight, last: Sight, engine: Engine) -> Sight:
        try:
            slots, context = await self._api.slots_and_context(self.server.instance(engine=engine))
            models = await self._models(engine, last)
        except InstanceError as why:
            if why.is_unreachable or not last.is_up:
                raise
            log.info("%s", why)  # it answers, and is slow to list what it has: what it had stands
            return seen
        self._listed_s = time.monotonic()
        return replace(seen, models=models, slots=slots, context=context)

    async def _models(self, engine: Engine, last: Sight) -> Mapping[str, Model]:
        """What it has of ours; a model that is as it was is not described anew."""
        listed = await self._api.listed(self.server.instance(engine=engine))
        named = self.server.named
        if engine is Engine.LLAMA_CPP and len(listed) == len(named) == 1:
            ours = {named[0]: listed[0]}  # it serves its one model under any name, its own is mostly a file's
        else:
            ours = {name: each for each in listed if (name := _pool_of(each.name, engine))}
        found = {}
        for pool, each in ours.items():
            before = last.models.get(pool)
            if before is not None and before.listed == each:
                found[pool] = before
            elif self.server.entry_of(pool) is not None:
                found[pool] = await self._described(pool, each, engine)
        return found

    async def _described(self, pool: str, listed: Listed, engine: Engine) -> Model:
        at = self.server.instance(pool, listed.name, engine)
        if listed.shape is not None:
            shape = replace(listed.shape, is_embedding=bool(listed.is_embedding))
            return Model(listed, details_of(at, shape, listed.abilities), "", listed.is_embedding)
        show = {} if listed.remote_host else await self._api.shown(at)
        is_embedding = embeds_only(show.get("capabilities"))
        details = {"tags": listed.tags, "show": show}
        remote_host = listed.remote_host or remote_of(show)
        told = listed.is_embedding if is_embedding is None else is_embedding
        return Model(listed, details, weights_of(show), told, remote_host)

    async def _running(self, engine: Engine, last: Sight) -> Mapping[str, Mapping[str, Any]] | None:
        if not self._tells_memory:
            return None
        try:
            told = await self._api.in_memory(self.server.instance(engine=engine))
        except InstanceError as why:
            if why.is_unreachable or last.running is None:
                raise
            # It may take seconds while another model is unloaded (OLLAMA.md 1.11): the last look stands.
            log.info("%s", why)
            return last.running
        if told is None:
            return None
        running = {canonical_model_name(name): entry for name, entry in told.items()}
        before = last.running or {}
        # When a model is to go changes with each call, and is nobody's news.
        is_news = [(each, running[each].get("context_length")) for each in running] != [
            (each, before[each].get("context_length")) for each in before
        ]
        return running if is_news or last.running is None else before

    # --- what becomes of it ------------------------------------------------------------------------------------------

    def _missed(self, why: InstanceError) -> None:
        """Down at once where nobody listens or it was never seen; otherwise a busy one may miss a look."""
        self._health = after_probe(self._health, why.message)
        if self.sight.is_up and not (self._health.is_down or why.is_unreachable):
            return
        if self.sight.reason != why.message:
            self._tell(Moment.DOWN, f"{self.name} is down: {why.message}")
        self._tells_memory = True
        self._become(replace(self.sight, state=InstanceState.DOWN, reason=why.message, running=None))

    def _become(self, seen: Sight) -> None:
        if seen == self.sight:
            return
        if seen.is_up and not self.sight.is_up:
            self._tell(Moment.SERVING, f"{self.name} answers: {seen.engine} {seen.version}".rstrip())
        self.sight = seen
        self._on_change()

    def _tell(self, kind: Moment, text: str) -> None:
        self._record(Event(time.time_ns() // 1_000_000, kind, text, self.name))


def _pool_of(name: str, engine: Engine) -> str:
    """What a listed model is called here; '' for a name that nobody could ask for. llama.cpp's is mostly a file's."""
    if engine is Engine.LLAMA_CPP and not _CALLABLE.fullmatch(name):
        name = _UNCALLABLE.sub("-", PurePath(name).name.removesuffix(".gguf")).strip("-")
    return canonical_model_name(name) if _CALLABLE.fullmatch(name) else ""
