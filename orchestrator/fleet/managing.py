"""Changes of models, carried out by the controller that leads: on every node, side by side, told of as one.

Whoever asked: what no gateway passes on is refused here as well, and what is done is written down before it is done.
A change that another controller began is begun anew: Ollama goes on with a pull where it was cut, and the others may be
done twice. What a change is, and what its outcomes come to, is `core.chores`'; which nodes there are is the fleet's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any, Final, Protocol

from orchestrator.core.chores import Chore, ChoreKind, Ending, Outcome, Progress, ending, shortened, why_not
from orchestrator.core.errors import OrchestratorError, StoreError
from orchestrator.core.model import Instance
from orchestrator.fleet.model_sites import ModelSite
from orchestrator.fleet.tasks import raise_first, together, within
from orchestrator.nodes.model_api import ModelApi, ModelWorkError
from orchestrator.nodes.tls import Contexts

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0
# Ollama itself tells how far a pull is some fifteen times a second; nobody reads that fast.
TELL_EVERY_S: Final = 0.2
# Who follows a change hears at least this often that somebody is at work on it.
BEAT_S: Final = 2.0
_ALONE: Final = frozenset({ChoreKind.PULL, ChoreKind.CREATE})  # on one folder of models
_CHANGING: Final = frozenset({ChoreKind.PULL, ChoreKind.CREATE, ChoreKind.COPY, ChoreKind.DELETE})


class Book(Protocol):
    """Changes that are to be done, and what is told of them. All of it raises StoreError."""

    def on_stir(self, callback: Callable[[], None]) -> None: ...
    async def open(self, token: int) -> list[Chore]: ...
    async def was_begun(self, chore: Chore) -> bool: ...
    async def tell(self, chore: Chore, token: int, line: Mapping[str, Any] | None) -> bool: ...
    async def end(self, chore: Chore, token: int, ending: Ending) -> bool: ...


class Lead(Protocol):
    """Whether this controller leads, and by which token."""

    @property
    def leads(self) -> bool: ...
    @property
    def token(self) -> int: ...
    def check(self) -> None:
        """Raises StoreError unless it leads for sure."""


class Managed(Protocol):
    """The fleet whose models are changed."""

    async def models_known(self) -> None:
        """Wait until its servers were looked at."""

    def model_sites(self) -> Sequence[ModelSite]:
        """Every folder of models."""

    def why_kept(self, model: str) -> str:
        """Why a model must stay what it is; empty: it may be deleted or replaced."""

    async def models_changed(self, chore: Chore) -> str:
        """Look at what there is now; what is to be told beside, empty: nothing."""


# Said before anything is done on a server. Raises OrchestratorError, and then it is not done.
Audit = Callable[[Chore], None]
# What became of one: done, refused, failed, or left to whoever leads next.
Count = Callable[[ChoreKind, str], None]


class _NotOursError(Exception):
    """It is another controller's to do, or nobody's any more."""


class Managing:
    """Of one controller, for as long as it leads."""

    def __init__(
        self,
        book: Book,
        lead: Lead,
        fleet: Managed,
        audit: Audit,
        contexts: Contexts | None = None,
        *,
        count: Count = lambda *_: None,
    ) -> None:
        """`contexts`: what servers behind TLS are asked with."""
        self._book, self._lead, self._fleet, self._audit, self._count = book, lead, fleet, audit, count
        self._api = ModelApi(contexts)
        self._stirred = asyncio.Event()
        self._works: dict[str, tuple[Chore, asyncio.Task[None]]] = {}
        book.on_stir(self._stirred.set)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._stirred.clear()
                    await self._look(group)
                    await within(LOOK_EVERY_S, self._stirred)
        except BaseExceptionGroup as several:
            raise_first(several)
        finally:
            await self._api.close()

    async def _look(self, group: asyncio.TaskGroup) -> None:
        """Begin what is new; leave what is not this controller's to do any more."""
        chores: list[Chore] = []
        if self._lead.leads:
            try:
                chores = await self._book.open(self._lead.token)
            except StoreError:
                return  # what is under way goes on
        still = {each.id for each in chores}
        for name in [each for each in self._works if each not in still]:
            self._works[name][1].cancel()
        for each in chores:
            if each.id not in self._works:
                task = group.create_task(self._do(each), name=f"{each.kind} {each.subject}")
                self._works[each.id] = each, task
                task.add_done_callback(partial(self._over, each.id))

    def _over(self, name: str, _: asyncio.Task[None]) -> None:
        del self._works[name]

    # --- one change ---------------------------------------------------------------------------------------------------

    async def _do(self, chore: Chore) -> None:
        """Nothing that goes wrong here is the controller's end."""
        log.info("%s of %s, asked for by %s", chore.kind, chore.subject, chore.who)
        try:
            ended = await self._done(chore)
        except (_NotOursError, StoreError) as why:
            log.warning("%s of %s is left: %s", chore.kind, chore.subject, why)
            self._count(chore.kind, "left")
            return
        except OrchestratorError as why:
            ended = Ending(500, str(why))
        except Exception:  # a mistake of ours: said in the log, and nobody waits for ever
            log.exception("%s of %s", chore.kind, chore.subject)
            ended = Ending(500, "a mistake of ours: the controller's log says which")
        log.info("%s of %s: %s", chore.kind, chore.subject, ended.error or "done")
        self._count(chore.kind, "done" if ended.is_success else "refused" if ended.status < 500 else "failed")
        await self._end(chore, ended)

    async def _after_others(self, chore: Chore) -> None:
        """Wait for what was asked for before and is about the same models; a deletion waits for no pull."""
        for other, task in list(self._works.values()):
            is_before = (other.at_ms, other.id) < (chore.at_ms, chore.id)
            if not is_before or not other.names & chore.names:
                continue
            if chore.kind is ChoreKind.DELETE and other.kind is ChoreKind.PULL:
                await self._end(other, Ending(409, f"model '{other.subject}' was deleted meanwhile"))
                task.cancel()
            await asyncio.wait((task,))

    async def _done(self, chore: Chore) -> Ending:
        """Raises _NotOursError, StoreError and what may go wrong on the way."""
        was_begun = await self._book.was_begun(chore)
        await self._tell(chore, None)  # who does not lead does nothing
        if why := why_not(chore):
            log.warning("%s of %s, asked for by %s, is refused: %s", chore.kind, chore.subject, chore.who, why)
            return Ending(400, why)
        progress = Progress()
        async with self._told(chore, progress):
            await self._fleet.models_known()
            if chore.replaced and (why := self._fleet.why_kept(chore.replaced)):
                return Ending(409, why)
            await self._after_others(chore)
            if chore.kind is not ChoreKind.BLOB:
                self._audit(chore)
            ended = await self._carried_out(chore, progress, was_begun=was_begun)
            note = await self._changed(chore) if chore.kind in _CHANGING else ""
        for line in progress.news():
            await self._tell(chore, line)
        if note and ended.is_success and chore.kind.has_progress:
            await self._tell(chore, {"status": note})
        return ended

    async def _carried_out(self, chore: Chore, progress: Progress, *, was_begun: bool) -> Ending:
        sites = self._fleet.model_sites()
        if chore.kind is ChoreKind.BLOB:
            return await self._who_lacks(chore, sites)
        if chore.kind is ChoreKind.PUSH and sites:
            found = await self._with_model(chore, sites)
            if isinstance(found, Ending):
                return found
            sites = (found,)
        progress.begins(each.name for each in sites if each.at is not None)
        # One that may not go on ends the others: they are another controller's to do.
        outcomes = await together(self._on(each, chore, progress) for each in sites)
        return ending(chore, outcomes, was_begun=was_begun)

    async def _on(self, site: ModelSite, chore: Chore, progress: Progress) -> Outcome:
        """It, on one node."""
        if site.at is None:
            return Outcome(site.name, 0, site.problem)
        try:
            async with site.turn if site.turn is not None and chore.kind in _ALONE else nullcontext():
                self._lead.check()
                async for line in self._api.work(site.at, chore.kind, chore.body):
                    progress.saw(site.name, line)
        except ModelWorkError as why:
            return Outcome(site.name, why.status, shortened(why.message))
        finally:
            progress.left(site.name)
        return Outcome(site.name)

    async def _with_model(self, chore: Chore, sites: Sequence[ModelSite]) -> ModelSite | Ending:
        """The first node that has the model: a registry needs it once."""
        silent = []
        for each in sites:
            try:
                if each.at is not None and await self._api.has_model(each.at, chore.subject):
                    return each
                problem = each.problem
            except ModelWorkError as why:
                problem = why.message
            silent += [f"{each.name}: {problem}"] if problem else []
        not_asked = f"; could not be asked: {'; '.join(silent)}" if silent else ""
        return Ending(404, f"model '{chore.subject}' not found{not_asked}")

    async def _who_lacks(self, chore: Chore, sites: Sequence[ModelSite]) -> Ending:
        """Where a blob is to be sent; it must be on all nodes, so that none may be left out."""

        async def look(site: ModelSite) -> bool | Outcome:
            if site.at is None:
                return Outcome(site.name, 0, site.problem)
            try:
                return await self._api.has_blob(site.at, chore.subject)
            except ModelWorkError as why:
                return Outcome(site.name, why.status, shortened(why.message))

        found = await together(map(look, sites))
        outcomes = [
            each if isinstance(each, Outcome) else Outcome(site.name) for each, site in zip(found, sites, strict=True)
        ]
        ended = ending(chore, outcomes)
        if not ended.is_success:
            return ended
        lacking = [site for each, site in zip(found, sites, strict=True) if each is False]
        # A file goes from the client through a gateway, which asks the server itself.
        missing = [(each.name, *_place(each.at)) for each in lacking if each.at is not None]
        return Ending(told={"missing": missing})

    async def _changed(self, chore: Chore) -> str:
        try:
            return await self._fleet.models_changed(chore)
        except OrchestratorError as why:
            log.info("%s: what there is now is seen with the next look: %s", chore.subject, why)
            return ""

    # --- telling ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _told(self, chore: Chore, progress: Progress) -> AsyncIterator[None]:
        """Tell how far it is for as long as the block runs; one that is not ours any more is cut off."""
        try:
            async with asyncio.TaskGroup() as group:
                telling = group.create_task(self._keep_telling(chore, progress))
                yield
                telling.cancel()
        except BaseExceptionGroup as several:
            raise_first(several)

    async def _keep_telling(self, chore: Chore, progress: Progress) -> None:
        loop = asyncio.get_running_loop()
        said_s = loop.time()
        while True:
            await asyncio.sleep(TELL_EVERY_S)  # a pace, however often there is something new
            news: list[dict[str, Any] | None] = [*progress.news()]
            if not news and loop.time() - said_s >= BEAT_S:
                news = [None]
            try:
                for line in news:
                    await self._tell(chore, line)
                    said_s = loop.time()
            except StoreError as why:
                log.info("%s of %s goes on untold: %s", chore.kind, chore.subject, why)

    async def _tell(self, chore: Chore, line: Mapping[str, Any] | None) -> None:
        """Raises _NotOursError where it is not this controller's to do, StoreError where nobody can say."""
        if not self._lead.leads or not await self._book.tell(chore, self._lead.token, line):
            raise _NotOursError("it was given up, or another controller leads")

    async def _end(self, chore: Chore, ended: Ending) -> None:
        """Tell its end as soon as that can be told; a controller that leads no more has nothing to tell."""
        while self._lead.leads:
            try:
                await self._book.end(chore, self._lead.token, ended)
            except StoreError:
                await within(LOOK_EVERY_S, self._stirred)
            else:
                return


def _place(at: Instance) -> tuple[str | int, ...]:
    """Where a gateway sends a file to, as `gateway/blobs.Target` is made of it."""
    return (at.host, at.port, at.tls_name) if at.tls_name else (at.host, at.port)
