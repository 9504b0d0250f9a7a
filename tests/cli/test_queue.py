"""`ollamactl queue` before a real gateway and a real Redis: who waits, how long, whose turn is next."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from orchestrator.core.model import LeaseId
from orchestrator.settings import ClusterSettings
from orchestrator.store.admission import AdmitRequest, Leased, Outcome, Queued, Usage
from orchestrator.store.leases import Leases
from tests.gateway.played import Played, played, pool_of
from tests.nodes.simulators import free_port

MODEL = "llama3.2:3b"
KEY = "0123456789abcdef-of-an-admin"
SETTINGS = ClusterSettings.model_validate(
    {"models": {MODEL: {}}, "keys": [{"name": "ops", "secret": KEY, "admin": True}]}
)


async def ollamactl(*args: str, key: str = KEY) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orchestrator.cli", *args),
        env={**os.environ, "OLLAMACTL_KEY": key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture
async def crowded(tmp_path: Path) -> AsyncIterator[Played]:
    """One slot, measured at two seconds a call, and three calls that wait for it."""
    pool = pool_of(MODEL, [free_port()], slots=1)
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(played(tmp_path, SETTINGS, [pool]))
        leases = Leases(world.connection, "gw9.test", 30)
        await leases.start()
        stack.push_async_callback(leases.close)
        usage = Usage("2026-11-21", {}, (1000, 500))
        assert isinstance(await leases.admit(_asked("spent", "support")), Leased)
        await leases.settle(pool.name, LeaseId("spent"), Outcome.OK, usage=usage)
        measured = 2_000_000 * 1024 + 64
        await world.connection.command("HSET", f"olm:pool:{{{MODEL}}}:slots", f"\tp{pool.instances[0].id}", measured)
        assert isinstance(await leases.admit(_asked("running", "batch")), Leased)
        for name, caller in (("one", "batch"), ("two", "batch"), ("three", "support")):
            assert isinstance(await leases.admit(_asked(name, caller)), Queued)
        yield world


def _asked(name: str, caller: str) -> AdmitRequest:
    return AdmitRequest(pool_of(MODEL, []).name, LeaseId(name), caller=caller)


async def test_as_json_it_tells_each_queue_as_it_stands(crowded: Played) -> None:
    code, out, err = await ollamactl("queue", "--endpoint", crowded.url, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["store"] == "up"
    (pool,) = told["pools"]
    assert pool["pool"] == MODEL
    assert (pool["queue_depth"], pool["slots_busy"], pool["slots"]) == (3, 1, 1)
    assert (pool["expected_wait_s"], pool["service_s"]) == (8.0, 2.0)
    assert pool["oldest_wait_s"] >= 0
    assert [(each["key"], each["waiting"]) for each in pool["keys"]] == [("batch", 2), ("support", 1)]
    assert pool["keys"][1]["tokens"] >= 2000


async def test_the_table_names_who_waits(crowded: Played) -> None:
    code, out, err = await ollamactl("queue", "--endpoint", crowded.url)
    assert code == 0, err
    (row,) = [line for line in out.splitlines() if MODEL in line]
    assert "1/1" in row
    assert "8 s" in row
    assert "batch: 2, " in out
    assert "support: 1, " in out


async def test_a_key_that_is_no_admins_is_told_so(crowded: Played) -> None:
    code, _, err = await ollamactl("queue", "--endpoint", crowded.url, key="")
    assert code == 1
    assert "name an admin's key" in err


async def test_without_a_cluster_the_exit_code_says_that_nobody_answers(tmp_path: Path) -> None:
    code, _, err = await ollamactl("queue", "--state", str(tmp_path / "nowhere"))
    assert code == 4
    assert "no cluster runs" in err
