"""Names of instances: looked up beside the calls, and remembered while nobody can be asked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence

import pytest

from orchestrator.core.errors import InstanceError
from orchestrator.gateway import addresses
from orchestrator.gateway.addresses import Addresses, system_look_up
from orchestrator.gateway.upstream import Connections
from tests.waiting import WITHIN_S, until


class Resolver:
    """Who knows what now; None: nobody is there to be asked, and who asks waits until somebody is."""

    def __init__(self, **known: str) -> None:
        self.known: dict[str, str] | None = known
        self.asked = 0
        self.there = asyncio.Event()

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked += 1
        while self.known is None:
            await self.there.wait()
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return (self.known[host],)


@pytest.fixture
def always_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "FRESH_FOR_S", -1.0)


async def test_an_address_needs_nobody_to_look_it_up() -> None:
    resolver = Resolver()
    assert await Addresses(resolver).of("127.0.0.1") == ("127.0.0.1",)
    assert await Addresses(resolver).of("::1") == ("::1",)
    assert resolver.asked == 0


async def test_many_who_ask_at_once_have_it_looked_up_once() -> None:
    resolver = Resolver(gpu="127.0.0.2")
    found = Addresses(resolver)
    assert set(await asyncio.gather(*(found.of("gpu") for _ in range(20)))) == {("127.0.0.2",)}
    assert resolver.asked == 1


async def test_a_name_that_was_never_found_is_an_error_that_names_it() -> None:
    with pytest.raises(OSError, match="nobody knows the name gpu"):
        await Addresses(Resolver()).of("gpu")


@pytest.mark.usefixtures("always_stale")
async def test_a_name_that_is_gone_stays_what_it_was(caplog: pytest.LogCaptureFixture) -> None:
    resolver = Resolver(gpu="127.0.0.2")
    found = Addresses(resolver)
    await found.of("gpu")
    resolver.known = {}
    for _ in range(5):
        assert await found.of("gpu") == ("127.0.0.2",)
        await asyncio.sleep(0)
    await found.of("gpu")
    assert caplog.text.count("gpu is not found now") == 1


@pytest.mark.usefixtures("always_stale")
async def test_nobody_waits_for_a_resolver_that_does_not_answer() -> None:
    resolver = Resolver(gpu="127.0.0.2")
    found = Addresses(resolver)
    await found.of("gpu")
    resolver.known = None
    async with asyncio.timeout(WITHIN_S):
        assert await found.of("gpu") == ("127.0.0.2",)
    resolver.known = {"gpu": "127.0.0.3"}
    resolver.there.set()
    await until(lambda: found.of("gpu"), holds=lambda seen: seen == ("127.0.0.3",))
    found.close()


async def test_what_was_learnt_before_it_was_needed_is_there_when_nobody_tells() -> None:
    resolver = Resolver(gpu="127.0.0.2")
    found = Addresses(resolver)
    found.learn(("gpu", "127.0.0.1", "unknown"))
    await until(lambda: resolver.asked >= 2)
    await asyncio.sleep(0)
    resolver.known = None
    assert await found.of("gpu") == ("127.0.0.2",)
    found.close()


async def test_the_system_finds_this_machine() -> None:
    assert "127.0.0.1" in await system_look_up("localhost")


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_of_several_addresses_the_first_is_taken_where_somebody_listens(listening: int) -> None:
    async def look_up(host: str) -> Sequence[str]:
        return "127.0.0.9", "127.0.0.1"

    connections = Connections(Addresses(look_up))
    exchange = await connections.connect("gpu-1", "gpu", listening)
    assert exchange.transport is not None
    assert exchange.transport.get_extra_info("peername") == ("127.0.0.1", listening)
    exchange.close()


async def test_an_instance_whose_name_nobody_knows_is_one_that_cannot_be_reached(listening: int) -> None:
    with pytest.raises(InstanceError, match="nobody knows the name gpu") as told:
        await Connections(Addresses(Resolver())).connect("gpu-1", "gpu", listening)
    assert told.value.is_unreachable
