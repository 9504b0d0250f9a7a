"""The benchmark of the hybrid plan: its users see what was answered, its questions keep their mix, it runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice

import pytest

from benchmarks.hybrid.__main__ import main
from benchmarks.hybrid.questions import Question, asked_by, repeated
from benchmarks.hybrid.setups import HYBRID, LEAST_CONN, settings_of
from benchmarks.hybrid.users import ask
from orchestrator.core.capacity.demand import Load
from orchestrator.settings import ClusterSettings
from tests.cluster.running import needs_redis

LOAD = Load()
QUESTION = Question("easy", "Where is shop 1?", 5)
HEAD = "HTTP/1.1 200 OK\r\nX-Tier: small\r\nServer-Timing: queue;dur=12.5, route;dur=1\r\n"


@asynccontextmanager
async def answering(*parts: str) -> AsyncIterator[int]:
    """A server that gives the same answer to everybody, part by part, and closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part.encode())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("parts", "is_whole"),
    [
        ((f"{HEAD}Transfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n", "0\r\n\r\n"), True),
        ((f"{HEAD}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",), True),
        ((f"{HEAD}Content-Length: 5\r\n\r\n", "hello"), True),
        ((f"{HEAD}Transfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n"), False),
        ((f"{HEAD}Content-Length: 9\r\n\r\n", "hello"), False),
        (("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\n", "busy"), False),
    ],
)
async def test_a_user_knows_a_whole_answer_from_a_broken_one(parts, is_whole):
    async with answering(*parts) as port:
        seen = await ask(port, "auto", QUESTION)
    assert seen.is_whole is is_whole
    if is_whole:
        assert (seen.tier, seen.queue_s) == ("small", 0.0125)
        assert 0 < seen.first_s <= seen.took_s


async def test_where_nobody_answers_the_call_has_failed():
    async with answering() as port:
        pass
    assert not (await ask(port, "auto", QUESTION)).is_whole


def test_questions_keep_their_mix_and_are_the_same_each_time():
    asked = list(islice(asked_by(3, LOAD, seed=1), 3000))
    assert asked[:50] == list(islice(asked_by(3, LOAD, seed=1), 50))
    counts = Counter(each.kind for each in asked)
    for kind, share in (("repeated", 0.6), ("easy", 0.3), ("hard", 0.1)):
        assert counts[kind] / len(asked) == pytest.approx(share, abs=0.03)
    known = set(repeated(LOAD))
    assert all((each in known) == (each.kind == "repeated") for each in asked)


@pytest.mark.parametrize("setup", [HYBRID, LEAST_CONN], ids=lambda each: each.name)
def test_a_setup_is_a_valid_configuration_with_the_plans_instances(setup, tmp_path):
    settings = ClusterSettings.model_validate(settings_of(setup, 8080, tmp_path))
    slots = sum(int(each.replicas) * each.slots for each in settings.models.values())
    assert slots == sum(each.servers for each in setup.plan.pools)


def test_ten_users_are_served_by_cache_and_tiers_and_the_results_are_written(tmp_path, capsys):
    needs_redis()
    results, drawing = tmp_path / "RESULTS.md", tmp_path / "hybrid.svg"
    few = ["--users", "10", "--think", "0.5", "--minutes", "0.05", "--answer", "20", "--only", "two cards"]
    main([*few, "--results", str(results), "--drawing", str(drawing)])
    told = results.read_text()
    assert "| calls failed | 0 |" in told
    assert "| share of cache / small / full | " in told
    assert "cache: p50 / p95 / p99, goal 50 ms | -" not in told
    assert "<polyline" in drawing.read_text()
    assert told in capsys.readouterr().out
