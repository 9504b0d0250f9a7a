"""A world a test: a keeper and a Valkey of its own, in folders that are gone afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.fleet.world import World
from tests.store.playing import Server, own_server


@pytest.fixture
def server() -> Iterator[Server]:
    with own_server() as server:
        yield server


@pytest.fixture
async def world(server: Server) -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        async with World(Path(folder), server) as made:
            yield made
