"""Names of hosts looked up from here: found once, found again, and kept while nobody can be asked."""

from __future__ import annotations

import asyncio
import socket

import pytest

from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeName
from orchestrator.nodes import names
from orchestrator.nodes.names import Names
from orchestrator.nodes.ssh import SshAddress, shown_key

GPU_1 = NodeName("gpu-1")
NOWHERE = "gpu-1.nowhere.invalid"  # RFC 6761: no resolver knows it


class Told:
    """A resolver that says what a test wants."""

    def __init__(self, **known: str) -> None:
        self.known, self.asked = known, 0

    async def __call__(self, name: str) -> str:
        self.asked += 1
        if name not in self.known:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self.known[name]


async def test_a_name_that_this_machine_knows_becomes_an_address() -> None:
    found = Names()
    assert await found.find(GPU_1, "localhost") == "127.0.0.1"
    assert found.known("localhost") == "127.0.0.1"


async def test_a_name_that_nobody_knows_is_one_line_with_node_and_field() -> None:
    with pytest.raises(HostError, match=r"gpu-1: address: this machine finds no host of the name 'gpu-1\.nowhere"):
        await Names().find(GPU_1, NOWHERE)


async def test_a_connection_to_a_name_that_nobody_knows_says_the_same() -> None:
    with pytest.raises(HostError, match=r"^gpu-1: address: this machine finds no host of the name 'gpu-1\.nowhere"):
        await shown_key(SshAddress(GPU_1, NOWHERE))


@pytest.mark.parametrize("address", ["10.0.0.7", "fd00::7"])
async def test_an_address_is_looked_up_nowhere(address: str) -> None:
    told = Told()
    assert await Names(told).find(GPU_1, address) == address
    assert told.asked == 0


async def test_a_wave_asks_once() -> None:
    told = Told(big="10.0.0.7")
    found = Names(told)
    assert set(await asyncio.gather(*(found.find(GPU_1, "big") for _ in range(20)))) == {"10.0.0.7"}
    assert told.asked == 1


async def test_a_host_that_moved_is_found_where_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "FRESH_FOR_S", 0.0)
    told = Told(big="10.0.0.7")
    found = Names(told)
    await found.find(GPU_1, "big")
    told.known["big"] = "10.0.0.8"
    assert await found.find(GPU_1, "big") == "10.0.0.8"
    assert found.known("big") == "10.0.0.8"


async def test_what_was_found_stays_while_no_resolver_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "FRESH_FOR_S", 0.0)
    told = Told(big="10.0.0.7")
    found = Names(told)
    await found.find(GPU_1, "big")
    told.known.clear()
    assert await found.find(GPU_1, "big") == "10.0.0.7"


async def test_a_resolver_that_never_answers_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "FOUND_WITHIN_S", 0.05)

    async def silent(name: str) -> str:
        await asyncio.Event().wait()
        return name

    with pytest.raises(HostError, match=r"nobody told within 0\.05 s"):
        await Names(silent).find(GPU_1, "big")


async def test_one_name_that_is_not_found_keeps_no_other_from_being_found() -> None:
    found = Names(Told(big="10.0.0.7"))
    await found.find_all(((GPU_1, "small"), (NodeName("gpu-2"), "big")))
    assert (found.known("small"), found.known("big")) == ("small", "10.0.0.7")
