"""What a controller measures while the cluster serves: drift of routes, and evaluations that come round."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner

from orchestrator import telemetry
from orchestrator.app import settings_in_use
from orchestrator.app.counts import read_counts
from orchestrator.app.measuring import Measuring
from orchestrator.app.paths import StatePaths
from orchestrator.app.replaying import Replaying
from orchestrator.cli.drift import lines, replayed_lines
from orchestrator.cli.main import main
from orchestrator.core.errors import HostError
from orchestrator.core.evaluation.questions import SetError
from orchestrator.nodes.state_lock import StateLock
from orchestrator.settings import ClusterSettings
from orchestrator.store import routed, usage
from orchestrator.store.connection import Connection
from tests.store.playing import Server, own_server

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TODAY = NOW.date().isoformat()
SETTINGS: dict[str, Any] = {
    "models": {"m": {}},
    "tiers": {"small": {"model": "m"}, "full": {"model": "m"}},
    "routes": {"auto": {"usual_escalation": 0.1}},
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with own_server() as started:
        yield started


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Connection]:
    connection = Connection(server.url)
    await connection.open(20)
    await connection.command("FLUSHALL")
    yield connection
    await connection.close()


async def count(redis: Connection, route: str, calls: int, escalated: int, day: str = TODAY) -> None:
    fields = {
        "routed:tier:small": calls - escalated,
        "routed:tier:full": escalated,
        "routed:escalated:refusal": escalated,
    }
    await usage.add(redis, route, day, {name: amount for name, amount in fields.items() if amount})


def measuring(redis: Connection, settings: ClusterSettings) -> Measuring:
    return Measuring(redis, lambda: settings, lambda: True)


def said(metric: Any, *labels: str) -> float:
    return float(metric.labels(*labels)._value.get())


async def test_a_shift_is_said_as_metric_in_the_log_and_in_the_status_until_the_rate_is_back(
    redis: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ClusterSettings.model_validate(SETTINGS)
    looking = measuring(redis, settings)
    await count(redis, "auto", 1_000, 100)
    await looking.look(NOW)
    assert said(telemetry.DRIFT, "auto", "escalations", "rise") == 0
    with caplog.at_level(logging.INFO, "orchestrator"):
        for _ in range(20):
            await count(redis, "auto", 50, 15)
            await looking.look(NOW)
    assert "auto: the rate of its escalations shows a rise from the usual 10.0 %" in caplog.text
    assert said(telemetry.DRIFT, "auto", "escalations", "rise") == 1
    assert said(telemetry.ESCALATION_RATE, "auto") == pytest.approx(0.2)
    assert said(telemetry.ESCALATION_USUAL, "auto") == 0.1
    drift = (await routed.drifts(redis))["auto"]
    (line,) = lines({"auto": drift})
    assert line == "auto: usually 10.0% escalated; DRIFT: a rise (`ollamactl drift --accept auto` takes it as usual)"
    anew = measuring(redis, settings)  # a controller that was started again
    await count(redis, "auto", 3_000, 300)
    await anew.look(NOW)
    assert said(telemetry.DRIFT, "auto", "escalations", "rise") == 0
    (line,) = lines({"auto": (await routed.drifts(redis))["auto"]})
    assert line == "auto: usually 10.0% escalated, as before; 5 points more are noticed in 538 calls, less in 451"


async def test_what_is_usual_is_learnt_and_goes_on_over_midnight(redis: Connection) -> None:
    settings = ClusterSettings.model_validate({**SETTINGS, "routes": {"auto": {}}})
    looking = measuring(redis, settings)
    await count(redis, "auto", 1_900, 380)
    await looking.look(NOW)
    assert (await routed.drifts(redis))["auto"]["escalations"]["usual"] is None
    tomorrow = NOW + timedelta(days=1)
    await count(redis, "auto", 200, 40)  # after the last look of that day
    await count(redis, "auto", 500, 100, tomorrow.date().isoformat())
    await looking.look(tomorrow)
    await looking.look(tomorrow)
    told = (await routed.drifts(redis))["auto"]["escalations"]
    assert told["usual"] == pytest.approx(0.2, abs=0.001)
    assert told["watched"]["drift"]["calls"] == 2_100
    assert said(telemetry.ESCALATION_RATE, "auto") == pytest.approx(0.2)


async def test_ratings_are_followed_too_and_a_route_that_is_gone_is_not(redis: Connection) -> None:
    settings = ClusterSettings.model_validate({**SETTINGS, "routes": {"auto": {}, "gone": {}}})
    looking = measuring(redis, settings)
    await count(redis, "gone", 10, 1)
    await usage.add(redis, "auto", TODAY, {"routed:rated:right": 380, "routed:rated:wrong": 20})
    await looking.look(NOW)
    await usage.add(redis, "auto", TODAY, {"routed:rated:right": 100, "routed:rated:wrong": 100})
    await looking.look(NOW)
    kept = await routed.drifts(redis)
    assert kept["auto"]["ratings"]["alarm"] == "rise"
    assert "gone" in kept
    await Measuring(redis, lambda: ClusterSettings.model_validate(SETTINGS), lambda: True).look(NOW)
    assert set(await routed.drifts(redis)) == {"auto"}


async def test_what_was_kept_and_cannot_be_read_is_learnt_anew(
    redis: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await routed.keep_drift(redis, "auto", {"escalations": {"watched": {"seen": 7}}})
    await count(redis, "auto", 10, 1)
    await measuring(redis, ClusterSettings.model_validate(SETTINGS)).look(NOW)
    assert "auto: what was kept of its escalations cannot be read, and is learnt anew" in caplog.text
    assert (await routed.drifts(redis))["auto"]["escalations"]["watched"]["seen"]["calls"] == 10


async def test_the_status_says_what_routes_did_without_what_only_the_controller_needs(redis: Connection) -> None:
    await usage.add(redis, "auto", datetime.now(UTC).date().isoformat(), routed.fields("full", "refusal"))
    await measuring(redis, ClusterSettings.model_validate(SETTINGS)).look(datetime.now(UTC))
    told = (await read_counts(redis))["routed"]["auto"]
    assert (told["calls"], told["escalated"], told["escalated_why"], told["tiers"]) == (
        1,
        1,
        {"refusal": 1},
        {"full": 1},
    )
    assert told["drift"]["escalations"]["usual"] == 0.1
    assert "watched" not in told["drift"]["escalations"]


# --- the command ------------------------------------------------------------------------------------------------------


def ollamactl(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.output


async def test_the_command_shows_the_days_ends_with_1_while_something_drifts_and_accepts(
    redis: Connection, server: Server, tmp_path: Path
) -> None:
    paths = StatePaths(tmp_path)
    settings = ClusterSettings.model_validate({**SETTINGS, "redis": server.url})
    settings_in_use.write(paths, settings)
    now = datetime.now(UTC)
    day = now.date().isoformat()
    looking = measuring(redis, settings)
    await count(redis, "auto", 1_000, 900, day)
    await looking.look(now)

    async def drift(*arguments: str) -> tuple[int, str]:
        return await asyncio.to_thread(ollamactl, "drift", "--state", str(tmp_path), *arguments)

    code, told = await drift("--json")
    assert code == 1
    assert json.loads(told)["days"][day]["auto"]["escalated"] == 900
    assert json.loads(told)["drift"]["auto"]["escalations"]["alarm"] == "rise"
    code, told = await drift("--days", "2")
    assert code == 1
    assert "900 (90.0%)" in told
    code, told = await drift("--accept", "auto")
    assert code == 0
    await looking.look(now)
    code, told = await drift("--json")
    assert (code, json.loads(told)["drift"]["auto"]["escalations"]["alarm"]) == (0, "")
    code, told = await drift("--accept", "other")
    assert (code, "nothing is known of a route of that name; there are: auto" in " ".join(told.split())) == (1, True)


# --- evaluations that come round --------------------------------------------------------------------------------------


class Endpoint:
    """Answers what it is told to; refuses from the call `refuses_from` on."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.refuses_from: int | None = None
        self.answer = "5"
        self.private: set[tuple[str, str]] = set()  # which model may not see which question

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.refuses_from is not None and len(self.asked) >= self.refuses_from:
            return web.json_response({"error": "no room"}, status=503)
        if (body["model"], body["messages"][-1]["content"]) in self.private:
            return web.json_response({"error": "this call is local"}, status=403, headers={"X-Privacy": "local"})
        self.asked.append((body, dict(request.headers)))
        return web.json_response({"message": {"role": "assistant", "content": self.answer}, "model": body["model"]})


@asynccontextmanager
async def answering(state: Path) -> AsyncIterator[Endpoint]:
    """An endpoint that the state folder's holder has told of."""
    made, app = Endpoint(), web.Application()
    app.router.add_post("/api/chat", made.chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        with StateLock(state) as lock:
            lock.tell(f"127.0.0.1:{runner.addresses[0][1]}")
            yield made
    finally:
        await runner.cleanup()


def evaluated(tmp_path: Path, **more: Any) -> ClusterSettings:
    questions = [
        {"id": f"q{each}", "prompt": f"{each}+1?", "scorer": "numeric", "answer": str(each + 1)} for each in (4, 5)
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, questions)))
    told = {"set": str(path), "targets": ["small", "auto"], "every_s": 3600, "key": "eval", **more}
    keys = [{"name": "eval", "secret": "e" * 16}]
    return ClusterSettings.model_validate({**SETTINGS, "keys": keys, "eval": told})


async def test_a_set_is_asked_when_it_is_due_last_in_the_queue_and_by_its_key(
    redis: Connection, tmp_path: Path
) -> None:
    settings = evaluated(tmp_path)
    state = tmp_path / "state"
    replaying = Replaying(StatePaths(state), redis, lambda: settings, lambda: True)
    async with answering(state) as endpoint:
        now = datetime.now(UTC).timestamp()
        assert await replaying.look(now)
        assert not await replaying.look(now + 3000)
        assert await replaying.look(now + 3700)
    assert len(endpoint.asked) == 8
    assert {body["model"] for body, _ in endpoint.asked} == {"m", "auto"}
    for _, headers in endpoint.asked:
        told = (headers["X-Priority"], headers["X-Replay"], headers["Cache-Control"], headers["Authorization"])
        assert told == ("9", "1", "no-store", f"Bearer {'e' * 16}")
    kept = await routed.replayed(redis)
    assert {name: (each["accuracy"], each["questions"], len(each["days"])) for name, each in kept.items()} == {
        "small": (0.5, 2, 1),
        "auto": (0.5, 2, 1),
    }
    assert said(telemetry.REPLAY_ACCURACY, "small", "false") == 0.5
    assert replayed_lines(kept)[0].startswith("evaluation: small answered 50.0% of 2 right (95 %:")
    assert [each.name for each in (state / "replays").iterdir()] == ["last.jsonl"]
    assert (state / "replays").stat().st_mode & 0o077 == 0


async def test_an_evaluation_that_broke_off_asks_only_what_is_missing(redis: Connection, tmp_path: Path) -> None:
    settings = evaluated(tmp_path)
    state = tmp_path / "state"
    replaying = Replaying(StatePaths(state), redis, lambda: settings, lambda: True)
    async with answering(state) as endpoint:
        endpoint.refuses_from = 3
        with pytest.raises(HostError, match="503: no room"):
            await replaying.look(datetime.now(UTC).timestamp())
        assert await routed.replayed(redis) == {}
        endpoint.refuses_from = None
        assert await replaying.look(datetime.now(UTC).timestamp())
    assert len(endpoint.asked) == 4


async def test_a_question_that_a_target_may_not_see_breaks_nothing_off_and_is_said(
    redis: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, state = evaluated(tmp_path), tmp_path / "state"
    replaying = Replaying(StatePaths(state), redis, lambda: settings, lambda: True)
    async with answering(state) as endpoint:
        endpoint.private = {("auto", "4+1?")}
        assert await replaying.look(datetime.now(UTC).timestamp())
        assert "auto: 1 of 2 questions not asked, refused by privacy class (local 1)" in caplog.text
        kept = await routed.replayed(redis)
        assert {name: each["questions"] for name, each in kept.items()} == {"small": 2, "auto": 1}


async def test_what_the_others_answered_is_kept_where_one_target_may_see_nothing_and_nobody_is_asked_before_it_is_due(
    redis: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, state = evaluated(tmp_path), tmp_path / "state"
    replaying = Replaying(StatePaths(state), redis, lambda: settings, lambda: True)
    async with answering(state) as endpoint:
        now = datetime.now(UTC).timestamp()
        assert await replaying.look(now)
        endpoint.private, endpoint.answer = {("auto", "4+1?"), ("auto", "5+1?")}, "7"
        (state / "replays" / "last.jsonl").unlink()
        assert await replaying.look(now + 3700)
        assert "auto: 2 of 2 questions not asked, refused by privacy class (local 2), and it has no f" in caplog.text
        assert "take auto out of `eval.targets`" in caplog.text
        assert [each.name for each in (state / "replays").iterdir()] == ["last.jsonl"]
        kept = await routed.replayed(redis)
        assert {name: (each["accuracy"], each["questions"]) for name, each in kept.items()} == {"small": (0.0, 2)}
        assert said(telemetry.REPLAY_ACCURACY, "small", "false") == 0.0
        assert math.isnan(said(telemetry.REPLAY_ACCURACY, "auto", "false")), "the old one is not told as new"
        endpoint.asked.clear()
        anew = Replaying(StatePaths(state), redis, lambda: settings, lambda: True)
        assert not await anew.look(now + 3000)
        assert not endpoint.asked
        assert await anew.look(now + 7400), "it is tried again"
        assert {body["model"] for body, _ in endpoint.asked} == {"m"}


async def test_where_no_target_may_see_anything_the_run_breaks_off(redis: Connection, tmp_path: Path) -> None:
    settings, state = evaluated(tmp_path, targets=["auto"]), tmp_path / "state"
    replaying = Replaying(StatePaths(state), redis, lambda: settings, lambda: True)
    async with answering(state) as endpoint:
        endpoint.private = {("auto", "4+1?"), ("auto", "5+1?")}
        with pytest.raises(SetError, match=r"no target of `eval\.targets` has an answer"):
            await replaying.look(datetime.now(UTC).timestamp())


async def test_nothing_is_asked_by_default_nor_by_a_controller_that_does_not_lead(
    redis: Connection, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    async with answering(state) as endpoint:
        for settings, leads in ((ClusterSettings.model_validate(SETTINGS), True), (evaluated(tmp_path), False)):
            replaying = Replaying(StatePaths(state), redis, lambda told=settings: told, lambda does=leads: does)
            assert not await replaying.look(datetime.now(UTC).timestamp())
    assert not endpoint.asked
