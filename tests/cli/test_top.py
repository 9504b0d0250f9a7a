"""`ollamactl top` and `events --audit` before a real gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from orchestrator.app import audit
from orchestrator.settings import ClusterSettings
from tests.cli.test_queue import ollamactl
from tests.gateway.asking import ask
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import standing_in

KEY = "0123456789abcdef-of-an-admin"
SETTINGS = ClusterSettings.model_validate({
    "models": {"little:1b": {}},
    "tiers": {"small": {"model": "little:1b"}, "full": {"model": "little:1b"}},
    "routes": {"auto": {}},
    "keys": [{"name": "ops", "secret": KEY, "admin": True, "limits": {"rpm": 100}}],
})  # fmt: skip


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Played]:
    async with AsyncExitStack() as stack:
        (instance,) = await stack.enter_async_context(standing_in(1))
        yield await stack.enter_async_context(played(tmp_path, SETTINGS, [pool_of("little:1b", [instance.port])]))


async def test_into_a_pipe_one_picture_is_drawn(world):
    headers = {"Authorization": f"Bearer {KEY}"}
    assert (await ask(world.url, "/api/chat", "hello", model="auto", headers=headers, stream=False)).status == 200
    code, out, err = await ollamactl("top", "--endpoint", world.url, key=KEY)
    assert (code, err) == (0, "")
    assert "CACHE ON" in out
    assert "slots 0 of 2" in out
    (small,) = [line for line in out.splitlines() if line.strip().startswith("small")]
    assert small.split()[2:4] == ["1", "100%"]
    (limit,) = [line for line in out.splitlines() if "key:ops rpm" in line]
    assert limit.split()[2:4] == ["1", "100"]


async def test_who_may_not_look_is_told_so_and_who_finds_nobody_too(world):
    code, _, err = await ollamactl("top", "--endpoint", world.url, key="wrong")
    assert code == 1
    assert "401" in err
    assert "OLLAMACTL_KEY" in err
    code, _, err = await ollamactl("top", "--endpoint", "127.0.0.1:1", key=KEY)
    assert code == 4
    assert "does not answer" in err


async def test_the_audit_log_says_who_had_what_done(tmp_path):
    path = tmp_path / "audit.jsonl"
    code, out, _ = await ollamactl("events", "--audit", "--state", str(tmp_path))
    assert (code, out) == (0, "")
    audit.record(path, "boss", "page", "drain", "small-0")
    code, out, _ = await ollamactl("events", "--audit", "--state", str(tmp_path))
    assert out.split()[2:] == ["boss", "page", "drain", "small-0"]
    assert path.stat().st_mode & 0o077 == 0
    path.write_text("nonsense\n")
    code, _, err = await ollamactl("events", "--audit", "--state", str(tmp_path))
    assert code == 1
    assert "cannot be read" in err
