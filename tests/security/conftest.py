"""What tests of security share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.gateway.stand_in import StandIn, standing_in


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def instance() -> AsyncIterator[StandIn]:
    async with standing_in(1) as (instance,):
        yield instance
