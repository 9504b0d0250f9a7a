"""One instance, from its process's start to a serving one, watched from then on, and brought back when it falls.

It knows the instance's own states and reasons. Which instances there are, and what is published of them, is the
steward's; keeping the process alive is its keeper's. An instance is asked over HTTP, its keeper on another host over
SSH: where one way is cut and the other is not, what answers is believed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from orchestrator.core.errors import InstanceError, OrchestratorError
from orchestrator.core.health import Health, after_probe
from orchestrator.core.model import Engine, Instance, InstanceState, PoolName
from orchestrator.core.patience import Cure, Suspicion
from orchestrator.core.patience import Means as Abilities
from orchestrator.fleet.describe import pool_details
from orchestrator.fleet.keepers import Post
from orchestrator.fleet.made import Made, marked
from orchestrator.fleet.means import Means, instance_of
from orchestrator.fleet.tasks import within

log = logging.getLogger(__name__)

PROBE_EVERY_S = 2.0
# A process that has just been started answers within this, many times over; probed often so that `up` is quick.
FIRST_START_PROBE_S, LONGEST_START_PROBE_S = 0.05, 1.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.25, 60.0
PROGRESS_EVERY_S = 0.5
UNLOADED_WITHIN_S, UNLOADED_LOOK_EVERY_S = 30.0, 0.1
# One token takes a moment; but others may have calls there, past the gateways, and it waits behind them.
FIRST_ANSWER_WITHIN_S = 120.0
# A process that ended so often without answering has no way to its port; a fresh one that ended once, too.
ENDS_UNTIL_NEW_PORT = 3
# Memory that an unloaded model held is free a moment later: one failed load proves nothing.
LOADS_UNTIL_HOPELESS = 2
ANSWERS_UNTIL_ANEW = 2


class Tended:
    """Keeps `instance` true to what is seen. `run` is its life, to be cancelled; the rest may be called meanwhile."""

    def __init__(
        self,
        made: Made,
        means: Means,
        *,
        pid: int | None = None,
        before: Instance | None = None,
        has_unit: bool = False,
    ) -> None:
        """`pid` of an instance that was found running; `before`: how it was published last.

        `has_unit`: its keeper was told to run it, also where the process is not known.
        """
        self.made = made
        self.is_draining = False
        self.resting = ""  # why it gets no calls for a while, though it is wanted; empty: it does
        self.details: Mapping[str, Any] = {}
        self._means = means
        self._site = means.site_of(made.placement.node)
        self._seen = before or instance_of(made, self._site)
        self._pid = pid
        self._has_unit = has_unit or pid is not None
        self._failed_loads = 0
        # Whether this process, with its model as it is in memory, has answered a question rightly.
        self._is_proven = before is not None and before.state is InstanceState.SERVING
        self._wrong_answers = 0  # of this process
        self._woken = asyncio.Event()
        self._has_answered = before is not None and before.state in (InstanceState.LOADING, InstanceState.SERVING)
        self._ends, self._last_words = 0, ""
        self._process_ended = asyncio.Event()
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self._suspicion: Suspicion | None = None
        self._retry_s = FIRST_RETRY_S

    @property
    def instance(self) -> Instance:
        if self.is_draining:
            return replace(self._seen, state=InstanceState.DRAINING, reason="finishes what it has, then ends")
        if self.resting and self._seen.state is InstanceState.SERVING:
            return replace(self._seen, state=InstanceState.DRAINING, reason=self.resting)
        return self._seen

    @property
    def cannot_load(self) -> str:
        """Why its model does not come into memory, again and again; empty: it does, or that is not known."""
        return self._seen.reason if self._failed_loads >= LOADS_UNTIL_HOPELESS else ""

    @property
    def shortfall(self) -> str:
        """What of its model is not on its cards, though it was placed there; empty: nothing that it tells of."""
        shown = self.details.get("ps", {})
        size, on_card = shown.get("size") or 0, shown.get("size_vram") or 0
        if not self.made.placement.accelerators or self._site.is_simulated or on_card >= size:
            return ""
        return f"{self._seen.id}: {on_card / 2**30:.1f} of {size / 2**30:.1f} GiB are on its card, and it is slow"

    @property
    def _post(self) -> Post:
        return self._means.keepers.of(self.made.placement.node)

    @property
    def pid(self) -> int | None:
        return self._pid

    @property
    def has_unit(self) -> bool:
        """Whether the keeper was told to run it."""
        return self._has_unit

    def process_is(self, pid: int | None, last_words: str = "") -> None:
        """What the keeper tells: the unit's process now, and what the one before said last."""
        was, self._pid = self._pid, pid
        if was is None or was == pid:
            return
        self._ends, self._last_words = self._ends + 1, last_words
        self._is_proven, self._wrong_answers = False, 0
        self._has_ended()
        self._become(InstanceState.STARTING, self._ended_how() or "its process ended")

    def unit_is_gone(self) -> None:
        """The keeper knows no such unit any more: it is to be started anew."""
        self._has_unit = False
        self.process_is(None, "the keeper no longer has it")
        self._has_ended()

    def is_found(self, made: Made, pid: int | None) -> None:
        """What its host says runs there, now that it can be asked."""
        if made.port != self.made.port:
            self.forget_port()
            self._means.ports.keep(self._seen.host, made.port)
            self._seen = replace(self._seen, port=made.port)
            self._has_answered = False
        self.made, self._has_unit = made, True
        self.process_is(pid)
        self.host_is_back()

    def host_is_back(self) -> None:
        """What failed for want of its host is tried again at once."""
        self._retry_s = FIRST_RETRY_S
        self._woken.set()

    def is_suspected(self, why: Suspicion) -> None:
        """Gateways say that it answers nobody: it is seen to with its next probe."""
        self._suspicion = why

    @property
    def serves(self) -> bool:
        """Whether it would answer calls now, also where it is to get none."""
        return self._seen.state is InstanceState.SERVING

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not look after it: what happens to it meanwhile is somebody's will."""
        self._goes_on.clear()
        try:
            yield
        finally:
            self._goes_on.set()
            self._woken.set()

    def forget_port(self) -> None:
        self._means.ports.forget(self._seen.host, self.made.port)

    async def run(self) -> None:
        """Until cancelled: bring it up, watch it, and again. What goes wrong is its state and reason."""
        is_new = self._seen.state is not InstanceState.SERVING
        while True:
            await self._goes_on.wait()
            self._process_ended.clear()
            try:
                if is_new:
                    await self._bring_up()
                is_new = True
                await self._watch()
                await self._see_to()
            except OrchestratorError as why:
                self._fell(why.message if isinstance(why, InstanceError) else str(why))
                self._process_ended.clear()
                await self._pause(self._retry_s)
                self._retry_s = min(self._retry_s * 2, LONGEST_RETRY_S)

    # --- up --------------------------------------------------------------------------------------------------------

    async def _bring_up(self) -> None:
        if not self._has_unit:
            await self._start()
        version = await self._answering()
        self._seen = replace(self._seen, engine_version=version)
        self._has_answered, self._ends, self._last_words = True, 0, ""
        if not await self._means.api.has_model(self._seen):
            await self._pull()
        if not await self._means.api.is_loaded(self._seen):
            await self._load()
        if not self._is_proven:
            await self._prove()
        self._failed_loads = 0
        await self._describe()
        if not self._process_ended.is_set():
            self._retry_s = FIRST_RETRY_S
            self._become(InstanceState.SERVING, "")

    async def _load(self) -> None:
        self._become(InstanceState.LOADING, f"loading {self._seen.upstream_model}")
        began_s = time.monotonic()
        with self._counted():
            await self._load_now()
        self._seen = replace(self._seen, load_s=round(time.monotonic() - began_s, 1))

    async def _load_now(self) -> None:
        self._is_proven = False
        await self._means.api.load(self._seen, is_embedding=self.made.is_embedding)

    async def _prove(self) -> None:
        """Have it answer a question before it gets any: what is loaded may yet say nothing, or nonsense."""
        self._become(InstanceState.LOADING, "answers a first question")
        try:
            with self._counted():
                await self._means.api.check_answer(
                    self._seen, FIRST_ANSWER_WITHIN_S, is_embedding=self.made.is_embedding
                )
        except InstanceError as why:
            await self._answered_wrongly(why)
            raise
        self._is_proven, self._wrong_answers = True, 0

    async def _answered_wrongly(self, why: InstanceError) -> None:
        """What ails a process that is wrong twice, no further question mends: it is started anew."""
        self._wrong_answers += not (self._process_ended.is_set() or why.is_unreachable)
        if self._wrong_answers >= ANSWERS_UNTIL_ANEW:
            self._wrong_answers = 0
            self._fell(f"{why.message}; its process is started anew")
            await self._post.keeping.restart(self.made.unit)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """What fails within is the instance's own failure, but where its process ended."""
        try:
            yield
        except InstanceError:
            self._failed_loads += not self._process_ended.is_set()
            raise

    async def _start(self) -> None:
        """Have the keeper start it, on a port that is free now."""
        await self._means.may_start.wait()
        if self.is_draining:
            raise InstanceError(self._seen.id, "is not started again: it is not wanted any more")
        self._post.check()
        self.forget_port()
        node = self.made.placement.node
        await self._means.locate(node)
        self._site = self._means.site_of(node)
        port = self._means.ports.take(self._site.host, self._site.ports, self._means.taken_ports(node))
        self.made = replace(self.made, port=port)
        self._seen = replace(self._seen, host=self._site.host, port=port)
        try:
            unit = self._means.unit_of(self.made.placement, port)
        except LookupError as why:
            raise InstanceError(self._seen.id, "the settings no longer have its model") from why
        self._has_answered, self._ends, self._pid, self._last_words = False, 0, None, ""
        self._is_proven, self._wrong_answers = False, 0
        await self._post.keeping.start(marked(unit, self.made))
        self._has_unit = True

    async def _answering(self) -> str:
        """Wait until its own process answers. Raises InstanceError where it never will on this port."""
        pause_s = FIRST_START_PROBE_S
        while True:
            try:
                version = await self._means.api.version(self._seen)
            except InstanceError as why:
                log.debug("%s", why)
                self._is_silent()
            else:
                if await self._is_ours():
                    return version
            await self._give_up_a_lost_port()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_START_PROBE_S)

    async def _is_ours(self) -> bool:
        """Whether it is our process that answers: somebody else may have taken the port before it could."""
        if self._has_answered:
            return True  # its port was its own; one that lost it in a restart ends, again and again
        self._post.check()
        if self._pid is None:
            units = await self._post.keeping.list()
            self._pid = next((each.pid for each in units if each.name == self.made.unit), None)
        if self._pid is None:
            return False
        if await self._post.keeping.listens(self.made.unit, self.made.port):
            return True
        await self._end_unit()
        raise InstanceError(self._seen.id, f"port {self.made.port} was taken by another process; trying another")

    async def _give_up_a_lost_port(self) -> None:
        if not self._has_unit or self._ends >= (ENDS_UNTIL_NEW_PORT if self._has_answered else 1):
            await self._end_unit()
            said = f": {self._last_words}" if self._last_words else ""
            raise InstanceError(self._seen.id, f"its process ended before it answered{said}")

    def _is_silent(self) -> None:
        """It does not answer, which is no wonder so soon, or while its host is away."""
        if away := self._away():
            self._become(InstanceState.DOWN, away)
        else:
            self._become(InstanceState.STARTING, self._ended_how() or "not answering yet")

    def _away(self) -> str:
        """Why nobody can say what its process does; empty: somebody can. What answers after that may be another."""
        if not self._post.problem:
            return ""
        self._pid, self._is_proven = None, False
        return f"{self._post.problem}; tried again"

    def _ended_how(self) -> str:
        return f"its process ended: {self._last_words}" if self._last_words else ""

    async def _end_unit(self) -> None:
        """Not to be restarted behind our back while we pause; the next start is on another port."""
        self._has_unit = False
        await self._post.keeping.stop(self.made.unit)

    async def _pull(self) -> None:
        """One at a time on a machine: two that write one folder would be in each other's way."""
        model, said_s = self._seen.upstream_model, 0.0

        def progress(status: str, done: int, total: int) -> None:
            nonlocal said_s
            if time.monotonic() - said_s >= PROGRESS_EVERY_S:
                said_s = time.monotonic()
                share = f" {done * 100 // total} % of {total / 1e9:.1f} GB" if total else ""
                self._become(InstanceState.LOADING, f"pulling {model}: {status}{share}")

        pulling = self._means.pulling[self._site.host, self._site.models_dir]
        if pulling.locked():
            self._become(InstanceState.LOADING, f"waiting to pull {model}: another pull is under way")
        async with pulling:
            if not await self._means.api.has_model(self._seen):
                await self._means.api.pull(self._seen, progress)
        if not await self._means.api.has_model(self._seen):
            raise InstanceError(self._seen.id, f"{model} was pulled, and yet is not there")

    async def _describe(self) -> None:
        shape = self._means.shape_of(self._seen.pool)
        if shape is not None:
            self.details = await pool_details(self._means.api, self._seen, shape)

    # --- watched ---------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Until its process ends or its model is no longer in memory. Raises InstanceError when it is down."""
        health = Health()
        while not self._process_ended.is_set() and self._suspicion is None and self._goes_on.is_set():
            try:
                if not await self._means.api.is_loaded(self._seen):
                    return
                if not self.details:
                    await self._describe()
                health = after_probe(health, None)
            except InstanceError as why:
                health = after_probe(health, why.message)
            is_down = health.is_down or bool(self._post.problem and health.reason)
            if is_down and not self._process_ended.is_set():
                raise InstanceError(self._seen.id, health.reason)
            await self._pause(PROBE_EVERY_S)

    async def _see_to(self) -> None:
        """Where it is suspected of having hung, until it answers. Raises OrchestratorError where it is down."""
        why, self._suspicion = self._suspicion, None
        if why is None:
            return
        if self._process_ended.is_set():  # what hung is gone
            self._means.ward.drop(self._seen.id)
            return
        await self._means.ward.see_to(_Patient(self), why)

    async def reload(self) -> None:
        """Have its model go, see it gone, and load it again. Raises InstanceError."""
        await self._means.api.unload(self._seen)
        until_s = time.monotonic() + UNLOADED_WITHIN_S
        while await self._means.api.is_loaded(self._seen):
            if time.monotonic() > until_s:
                raise InstanceError(self._seen.id, f"its model is in memory {UNLOADED_WITHIN_S:g} s after it was to go")
            await asyncio.sleep(UNLOADED_LOOK_EVERY_S)
        await self._load_now()

    async def restart(self) -> None:
        """Have its process end and start, and its model loaded. Raises OrchestratorError."""
        self._is_proven = False
        await self._post.keeping.restart(self.made.unit)
        await self._answering()
        if not await self._means.api.is_loaded(self._seen):
            await self._load_now()

    async def _pause(self, seconds: float) -> None:
        """So long, or until its process has ended, or something new is known of its host."""
        await within(seconds, self._woken)
        self._woken.clear()

    def _has_ended(self) -> None:
        self._process_ended.set()
        self._woken.set()

    def _fell(self, why: str) -> None:
        if self._process_ended.is_set() and self._has_unit:
            return  # the keeper has it back in a moment, and what went wrong went wrong for that
        why = self._away() or why
        if (self._seen.state, self._seen.reason) != (InstanceState.DOWN, why):
            log.warning("%s is down: %s", self._seen.id, why)
        self._become(InstanceState.DOWN, why)

    def _become(self, state: InstanceState, reason: str) -> None:
        if (state, reason) != (self._seen.state, self._seen.reason):
            self._seen = replace(self._seen, state=state, reason=reason)
            self._means.on_change(self.instance)


class _Patient:
    """An instance of ours as the ward sees to it."""

    def __init__(self, tended: Tended) -> None:
        self._tended, self._means = tended, tended._means
        self.pool, self.instance = PoolName(tended.instance.pool), tended.instance.id
        self.load_s = tended.instance.load_s
        # llama.cpp's server has its model from its start to its end.
        self.means = Abilities(unloads=tended.instance.engine is Engine.OLLAMA, restarts=True)

    def says(self, reason: str) -> None:
        self._tended._become(InstanceState.LOADING, reason)

    async def is_idle(self) -> bool:
        return await self._means.is_idle(self._tended.instance)

    async def answers(self, within_s: float) -> bool:
        tended = self._tended
        return await self._means.api.answers(tended.instance, within_s, is_embedding=tended.made.is_embedding)

    async def cure(self, cure: Cure) -> None:
        await (self._tended.restart() if cure is Cure.RESTART else self._tended.reload())
