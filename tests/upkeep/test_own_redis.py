"""The cluster's own Redis is followed by the program on disk, on its data; by a program that cannot, not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.app.own_redis import redis_unit, start_anew
from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper import Keeper
from orchestrator.nodes.keeper_client import KeeperClient
from orchestrator.store import embedded
from orchestrator.store.connection import Connection
from tests.cluster.running import needs_redis


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[KeeperClient]:
    """Of a keeper that runs a Redis."""
    needs_redis()
    keeper = Keeper(tmp_path, lambda _: None, socket_path=tmp_path / "keeper.sock")
    await keeper.open()
    try:
        await keeper.start(redis_unit(tmp_path))
        yield KeeperClient(tmp_path / "keeper.sock")
    finally:
        await keeper.close()


async def asked(root: Path, *words: str) -> object:
    connection = Connection(embedded.server_url(root), name="test")
    await connection.open(20)
    try:
        return await connection.command(*words)
    finally:
        await connection.close()


async def pid_of(client: KeeperClient) -> int | None:
    (redis,) = await client.list()
    return redis.pid


async def test_another_process_goes_on_with_its_data_each_time(client: KeeperClient, tmp_path: Path) -> None:
    await asked(tmp_path, "SET", "olm:test", "kept")
    pids = {await pid_of(client)}
    for _ in range(2):
        await start_anew(client, tmp_path, str(embedded.find_server()))
        pids.add(await pid_of(client))
        assert await asked(tmp_path, "GET", "olm:test") == b"kept"
    assert len(pids) == 3


async def test_where_the_one_on_disk_does_not_start_the_one_before_goes_on(
    client: KeeperClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asked(tmp_path, "SET", "olm:test", "kept")
    runs = str(embedded.find_server())
    monkeypatch.setattr(embedded, "find_server", lambda: Path("/bin/false"))
    with pytest.raises(HostError, match=f"Redis goes on as {runs}, the one on disk did not start"):
        await start_anew(client, tmp_path, runs)
    assert await asked(tmp_path, "GET", "olm:test") == b"kept"
