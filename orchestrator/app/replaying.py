"""The settings' set of questions asked again and again, last in the queue, and what came of it kept in Redis.

A run that breaks off goes on where it was: its answers lie in the state folder until it is done.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from orchestrator import telemetry
from orchestrator.app import settings_in_use
from orchestrator.app.evaluating import Asking, evaluate, questions_in, resamples
from orchestrator.app.paths import StatePaths
from orchestrator.app.targets_by_name import target_of
from orchestrator.core.errors import OrchestratorError, StoreError
from orchestrator.core.evaluation.questions import SetError
from orchestrator.core.evaluation.report import Outcome, Report, Told, Unasked, report
from orchestrator.nodes.state_lock import read_holder
from orchestrator.settings import ClusterSettings
from orchestrator.settings.measuring import EvalSettings
from orchestrator.store import routed
from orchestrator.store.connection import Connection

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 15.0
AGAIN_S: Final = 60.0  # after a run that broke off
KEPT_RUNS: Final = 30


class Replaying:
    """`leads`: whether this controller is the one that speaks for the cluster."""

    def __init__(
        self,
        paths: StatePaths,
        connection: Connection,
        settings: Callable[[], ClusterSettings],
        leads: Callable[[], bool],
    ) -> None:
        self._paths, self._connection, self._settings, self._leads = paths, connection, settings, leads
        self._series = telemetry.Series(telemetry.REPLAY_ACCURACY)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            wait_s = LOOK_EVERY_S
            try:
                await self.look(time.time())
            except StoreError:
                telemetry.STORE_ERRORS.inc()
            except OrchestratorError as why:
                log.warning("evaluation broke off, and goes on in a minute: %s", why)
                wait_s = AGAIN_S
            await asyncio.sleep(wait_s)

    async def look(self, now_unix: float) -> bool:
        """Run what is due; whether something was. Raises OrchestratorError where it broke off."""
        told = self._settings().eval
        kept = await routed.replayed(self._connection)
        self._say(kept)
        if told.set is None or not told.targets or not self._leads():
            return False
        last = min(_last(kept, each) for each in told.targets)
        holder = read_holder(self._paths.root)
        if now_unix - last < told.every_s or holder is None or not holder.endpoint:
            return False
        found = await self._run(told, holder.endpoint)
        at_unix = time.time()
        after = {each.target: _kept(kept.get(each.target, {}), each, found, at_unix) for each in found.targets}
        await routed.keep_replayed(self._connection, after)
        self._say(after)
        return True

    def _say(self, kept: Mapping[str, Mapping[str, Any]]) -> None:
        accuracy: dict[tuple[str, ...], float] = {
            (name, "true" if told["is_simulated"] else "false"): told["accuracy"] for name, told in kept.items()
        }
        self._series.tell(accuracy)

    async def _run(self, told: EvalSettings, endpoint: str) -> Report:
        """What some target answered, kept as the last run's. Raises SetError where none has figures."""
        assert told.set is not None
        settings = self._settings()
        questions = await asyncio.to_thread(questions_in, told.set)
        targets = [target_of(each, settings) for each in told.targets]
        named = next((each.secret for each in settings.keys if each.name == told.key), None)
        key = settings_in_use.asking_key(self._paths) if named is None else named.get_secret_value()
        asking = Asking(endpoint, key, told.at_once, told.tokens, told.judge or "")
        self._paths.replays.mkdir(mode=0o700, exist_ok=True)
        under_way = self._paths.replays / "under-way.jsonl"
        log.info("evaluation: %d questions for %s", len(questions), ", ".join(told.targets))
        unasked: list[Unasked] = []

        def on_outcome(outcome: Outcome | Unasked, _: int) -> None:
            if isinstance(outcome, Unasked):
                unasked.append(outcome)

        outcomes = await evaluate(questions, targets, asking, under_way, on_outcome)
        found = report(outcomes, [each.name for each in targets], {}, {}, resamples, unasked)
        for remark in found.remarks():
            log.warning("evaluation: %s", remark)
        if not found.targets:
            raise SetError(f"no target of `eval.targets` has an answer to any question of {told.set} that counts")
        for each in found.silent:
            log.warning("evaluation: where that is to stay so, take %s out of `eval.targets`", each)
        under_way.replace(self._paths.replays / "last.jsonl")
        return found


def _last(kept: Mapping[str, Mapping[str, Any]], target: str) -> float:
    """When a target was asked last, also where it may see nothing; 0: never."""
    asked = (told["at_unix"] for name, told in kept.items() if name == target or target in told.get("silent", ()))
    return max(asked, default=0.0)


def _kept(before: Mapping[str, Any], told: Told, found: Report, at_unix: float) -> dict[str, Any]:
    """A target's last result, and those of the days before it."""
    day = datetime.fromtimestamp(at_unix, UTC).date().isoformat()
    days = [each for each in before.get("days", []) if each["day"] != day]
    today = {"day": day, "accuracy": told.accuracy, "questions": told.questions}
    return {
        "at_unix": at_unix,
        "accuracy": told.accuracy,
        "accuracy_from": told.accuracy_from,
        "accuracy_to": told.accuracy_to,
        "questions": told.questions,
        "p50_s": told.p50_s,
        "chosen": dict(told.chosen),
        "is_simulated": found.is_simulated,
        "silent": found.silent,  # targets of the same run that have no figures
        "days": [*days, today][-KEPT_RUNS:],
    }
