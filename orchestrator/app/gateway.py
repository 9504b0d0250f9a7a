"""One gateway worker, built from the settings in use. Run by the keeper: `python -m orchestrator.app.gateway`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import uuid
from functools import cache, partial
from pathlib import Path

import click

from orchestrator import logs, telemetry
from orchestrator.app import audit, settings_in_use
from orchestrator.app.acts import Acts
from orchestrator.app.counts import read_counts
from orchestrator.app.crewing import Crewing
from orchestrator.app.loop import on_reload, open_files_at_most, run, until
from orchestrator.app.mirroring import chores_key, sessions_key
from orchestrator.app.paths import StatePaths
from orchestrator.app.recent_calls import recent_calls
from orchestrator.app.rules import rules_from, texts_in_logs, with_other_keys
from orchestrator.app.speaking_tls import contexts_of, tls_names
from orchestrator.core.errors import OrchestratorError, StoreError
from orchestrator.core.model import PoolName, Snapshot
from orchestrator.gateway import cache_words
from orchestrator.gateway.admission import Admission
from orchestrator.gateway.alone import Alone
from orchestrator.gateway.answer_cache import AnswerCache
from orchestrator.gateway.budgets import Budgets
from orchestrator.gateway.door import Door
from orchestrator.gateway.exporting import SpanExporter
from orchestrator.gateway.feedback import Feedback
from orchestrator.gateway.live import Live
from orchestrator.gateway.login import Logins
from orchestrator.gateway.managing import Managing
from orchestrator.gateway.page import Page
from orchestrator.gateway.patience import Patience
from orchestrator.gateway.pipeline import Pipeline
from orchestrator.gateway.request_log import RequestLog
from orchestrator.gateway.server import Server
from orchestrator.gateway.shared_slots import SharedSlots
from orchestrator.gateway.status import StatusPage
from orchestrator.gateway.tokens import Tokens
from orchestrator.gateway.tracing import Tracing
from orchestrator.gateway.upstream import Connections
from orchestrator.nodes.keeper_units import LISTEN_FD, SAY_READY_FD
from orchestrator.settings.syntax import host_and_port
from orchestrator.store import suspicion
from orchestrator.store.chores import Chores
from orchestrator.store.cluster import watch
from orchestrator.store.connection import Connection
from orchestrator.store.leases import Leases
from orchestrator.store.sealing import Seal

log = logging.getLogger(__name__)

# A worker that finds no Redis at its start serves what it can, and says so.
REDIS_WAIT_S = 10.0
# A Redis that is silent for so long is as good as none: calls go on without it. It takes as long to be let in again.
REDIS_SILENT_S = 2.0
# Of a place's name, in each lease and ticket: enough for two never to be taken for one.
PLACE_LETTERS = 12


@click.command()
@click.option("--state", type=click.Path(path_type=Path), required=True)
@click.option("--listen", required=True)
@click.option("--index", type=int, required=True, help="Number of this worker, from 0.")
@click.option("--workers", type=int, required=True)
@click.option("--life", type=click.IntRange(0, 1), default=0, help="The other one of a worker that this one succeeds.")
def main(state: Path, listen: str, index: int, workers: int, life: int) -> None:
    """Serve until SIGTERM; SIGHUP reads the settings in use again. SIGUSR2: another takes what is new."""
    logs.log_to_stderr(f"gateway-{index}", has_calls=True)
    open_files_at_most()
    sys.exit(run(Worker(StatePaths(state), listen, index, workers, life).run))


class Worker:
    """Everything of one worker, built once."""

    def __init__(self, paths: StatePaths, listen: str, index: int, workers: int, life: int = 0) -> None:
        self._paths, self._listen, self._index = paths, listen, index
        self._written = settings_in_use.written(paths)
        self._settings = settings = settings_in_use.read(paths)
        self._live = Live(rules_from(settings))
        logs.texts_in_logs(texts_in_logs(settings, self._live.rules))
        # The holder names this worker and its life: a later life gives back what an earlier one held. Other machines
        # on the same Redis have workers of the same numbers, so the state folder is part of it.
        # Nor may it give back what the one holds that it succeeds, and that finishes its calls meanwhile.
        self._place = f"{settings_in_use.place(paths)[:PLACE_LETTERS]}.gw{index}{'b' * life}."
        self._connection = Connection(os.environ["OLM_REDIS"], name=f"gateway-{index}", timeout_s=REDIS_SILENT_S)
        holder = self._place + uuid.uuid4().hex
        self._slots = SharedSlots(paths.slots, index + life * workers, 2 * workers)
        self._leases = Leases(self._connection, holder, settings.limits.lease_ttl_s, count=self._slots)
        self._crew = Crewing(paths, settings, self._connection, index, workers)
        alone = Alone(self._live, self._connection, self._leases, self._slots, self._crew.share)
        self._admission = Admission(self._live, self._connection, self._leases, alone)
        contexts = contexts_of(paths, lambda: self._settings)
        self._upstream = Connections(contexts=contexts)
        self._patience = Patience(self._live, partial(suspicion.suspect, self._connection))
        secret = settings_in_use.cache_secret(paths)
        self._cache = AnswerCache(self._live, self._connection, secret)
        self._budgets = Budgets(self._live, self._connection, self._crew.share, settings.limits.lease_ttl_s)
        self._pipeline = Pipeline(
            self._live, self._admission, self._upstream, self._patience, self._cache, self._budgets
        )
        status = StatusPage(self._live, self._read_counts, self._cache.told, self._pipeline.breakers.told)
        self._records = RequestLog(paths.calls, f"gw{index}", lambda: self._live.rules.keeps_records)
        acts = Acts(paths, self._connection, lambda: self._live.snapshot)
        page = Page(self._live, status, partial(recent_calls, paths.calls), acts.act)
        feedback = Feedback(self._cache, self._connection)
        self._spans = SpanExporter(lambda: self._live.rules.traces, f"gateway-{index}")
        tracing = Tracing(self._spans.take)
        self._chores = Chores(self._connection, chores_key(paths, settings))
        managing = Managing(self._live, self._chores, self._audited, contexts)
        self._tokens = Tokens(lambda: self._live.rules.issuers)
        seal = cache(lambda: Seal([sessions_key(paths, settings)]))
        logins = Logins(lambda: self._live.rules.login, self._tokens, seal)
        door = Door(self._live, self._tokens, logins)
        self._server = Server(
            self._live, self._pipeline, status, feedback, self._records, page, tracing, managing, door
        )
        self._dropped: set[str] = set()
        self._dropping: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> int:
        """Serve until `stop`, then finish what is under way."""
        leave = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, leave.set)
        on_reload(self._reload)
        try:
            await self._connection.open(wait_s=REDIS_WAIT_S)
        except OrchestratorError as why:
            log.error("%s", why)
        await self._leases.start()
        await self._budgets.start()
        await self._pipeline.start()
        await self._chores.start()
        self._cache.start()
        self._records.start()
        self._spans.start()
        self._tokens.keys.start()
        crewing = asyncio.create_task(self._crew.run())
        watching = await watch(self._connection, self._published)
        flushing = asyncio.create_task(self._admission.flush_counts())
        reckoning = asyncio.create_task(self._cache.keep_reckoning())
        watching_silence = asyncio.create_task(self._patience.watch())
        await self._server.start(*host_and_port(self._listen), _handed())
        log.info("serves on %s", self._listen)
        self._say_cache()
        telemetry.UP.set(self._connection.is_up)
        _keep_for_good()
        _say_ready()
        await until(stop, leave.wait())
        if not stop.is_set():
            await until(stop, self._server.leave())
        await self._server.stop()
        await self._pipeline.close()
        await self._records.close()
        await self._spans.close()
        await self._tokens.keys.close()
        flushing.cancel()
        reckoning.cancel()
        watching_silence.cancel()
        crewing.cancel()
        await self._admission.flush()
        await self._budgets.close()
        await self._cache.reckon()
        await watching.close()
        await self._leases.close()
        self._upstream.close()
        await self._connection.close()
        self._slots.close()
        return 0

    def _reload(self) -> None:
        try:
            if (written := settings_in_use.written(self._paths)) == self._written:  # keys alone have changed
                self._settings = settings_in_use.with_keys(self._paths, self._settings)
                self._live.rules = with_other_keys(self._live.rules, self._settings)
                log.info("keys taken over")
                return
            settings = settings_in_use.read(self._paths)
            self._live.rules = rules_from(settings)
        except OrchestratorError as why:
            log.error("settings not taken over: %s", why)
            return
        self._settings, self._written = settings, written
        logs.texts_in_logs(texts_in_logs(settings, self._live.rules))
        log.info("settings taken over")
        self._tokens.keys.stir()
        self._cache.begin_anew()
        self._say_cache()

    def _say_cache(self) -> None:
        """What of the answer cache is on, what is off, and why: nobody shall wonder for days."""
        telemetry.CACHE_ENABLED.set(self._live.rules.cache.is_enabled)
        for line in cache_words.lines(self._live.rules):
            log.info("%s", line)

    def _published(self, snapshot: Snapshot) -> None:
        self._live.snapshot = snapshot
        hosts = (each.host for pool in snapshot.pools for each in pool.instances)
        self._upstream.learn(hosts, tls_names(snapshot))
        for pool in snapshot.pools:
            if pool.name not in self._dropped:
                self._dropped.add(pool.name)
                task = asyncio.create_task(self._drop_earlier_lives(pool.name))
                self._dropping.add(task)
                task.add_done_callback(self._dropping.discard)

    async def _drop_earlier_lives(self, pool: PoolName) -> None:
        """What a killed worker of this place held is free: its connections ended with it."""
        try:
            leases, tickets = await self._leases.drop_earlier_lives(pool, self._place)
        except StoreError as why:
            log.warning("%s: what an earlier life held is given back later: %s", pool, why)
            self._dropped.discard(pool)  # with the next snapshot
            return
        if leases or tickets:
            log.warning("%s: gave back %d leases and %d tickets of an earlier life", pool, leases, tickets)

    def _audited(self, who: str, act: str, what: str) -> None:
        audit.record(self._paths.audit, who, "api", act, what)

    async def _read_counts(self) -> dict[str, object]:
        return await read_counts(self._connection, self._live.rules.budgets)


def _handed() -> socket.socket | None:
    """The socket to accept on, where the keeper gave one: it has it open as well, and so have this worker's next
    lives."""
    number = os.environ.pop(LISTEN_FD, "")
    if not number:
        return None
    os.set_inheritable(int(number), False)
    return socket.socket(fileno=int(number))


def _say_ready() -> None:
    """To the keeper, which has an earlier life of this worker finish from then on."""
    if number := os.environ.pop(SAY_READY_FD, ""):
        with os.fdopen(int(number), "wb") as pipe:
            pipe.write(b"1")


def _keep_for_good() -> None:
    """What is there by now stays: the collector need not look through it again and again, for nothing.

    Calls leave few cycles behind, so it comes less often, too.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


if __name__ == "__main__":
    main()
