"""Works that are done together: what one of them fails of ends the others, before anybody goes on."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.core.errors import StoreError
from orchestrator.fleet.tasks import together


async def test_they_come_back_in_their_order() -> None:
    first = asyncio.Event()

    async def one() -> int:
        await first.wait()
        return 1

    async def two() -> int:
        first.set()
        return 2

    assert await together((one(), two())) == [1, 2]


async def test_when_one_fails_the_others_are_over_before_that_is_told() -> None:
    begun, over = asyncio.Event(), []

    async def works() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            over.append("cut off")

    async def fails() -> None:
        await begun.wait()
        raise StoreError("another controller leads")

    with pytest.raises(StoreError, match="another controller leads"):
        await together((works(), fails()))
    assert over == ["cut off"]
