"""Names as the controller's questions look them up: what was found stays while no name server answers."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from orchestrator.nodes import remembering
from orchestrator.nodes.remembering import RememberingResolver


class Played(AbstractResolver):
    """A resolver that says one address, an error, or nothing at all."""

    def __init__(self) -> None:
        self.says: str | OSError | None = "127.0.0.2"

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if self.says is None:
            await asyncio.get_running_loop().create_future()
        if isinstance(self.says, OSError):
            raise self.says
        return [
            ResolveResult(hostname=host, host=str(self.says), port=port, family=family, proto=0, flags=0),
        ]

    async def close(self) -> None:
        """It has nothing open."""


async def address_of(resolver: RememberingResolver) -> str:
    return (await resolver.resolve("gpu", 11434))[0]["host"]


async def test_what_was_found_stays_while_nobody_knows_the_name(caplog: pytest.LogCaptureFixture) -> None:
    system = Played()
    resolver = RememberingResolver(system)
    assert await address_of(resolver) == "127.0.0.2"
    system.says = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    assert [await address_of(resolver) for _ in range(3)] == ["127.0.0.2"] * 3
    assert caplog.text.count("gpu is not found now") == 1
    system.says = "127.0.0.3"
    assert await address_of(resolver) == "127.0.0.3"


async def test_what_was_found_stays_while_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "KNOWN_WITHIN_S", 0.01)
    system = Played()
    resolver = RememberingResolver(system)
    await address_of(resolver)
    system.says = None
    assert await address_of(resolver) == "127.0.0.2"


async def test_a_name_that_was_never_found_is_an_error() -> None:
    system = Played()
    system.says = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with pytest.raises(OSError, match="not known"):
        await address_of(RememberingResolver(system))
