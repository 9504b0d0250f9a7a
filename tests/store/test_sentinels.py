"""Sentinels are asked all at once and listened to: the newest word counts, a silent one keeps nobody waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from orchestrator.core.errors import StoreError
from orchestrator.store import sentinels
from orchestrator.store.address import parse_url
from orchestrator.store.connection import Connection
from orchestrator.store.sentinels import master_of
from tests.store.playing import free_port, playing
from tests.waiting import WITHIN_S, until


class Sentinel:
    """A played one: it names a master, and tells who listens when that is another one."""

    def __init__(self, port: int, epoch: int = 0, flags: str = "master", *, is_silent: bool = False) -> None:
        self.master, self.epoch, self.flags, self._is_silent = port, epoch, flags, is_silent
        self._hearing: list[asyncio.StreamWriter] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Sentinel:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for each in self._writers:
            each.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        while line := await reader.readline():
            words = [(await reader.readline(), await reader.readline())[1].strip() for _ in range(int(line[1:]))]
            if not self._is_silent:
                writer.write(self._answer(words, writer))

    def _answer(self, words: list[bytes], writer: asyncio.StreamWriter) -> bytes:
        if words[0] == b"SENTINEL":
            told = {"ip": "127.0.0.1", "port": self.master, "flags": self.flags, "config-epoch": self.epoch}
            return _array("*", [str(each) for pair in told.items() for each in pair])
        if words[0] == b"SUBSCRIBE":
            self._hearing.append(writer)
            return _array(">", ["subscribe", words[1].decode()], more=b":1\r\n")
        return b"%0\r\n" if words[0] == b"HELLO" else b"+PONG\r\n"

    async def names(self, port: int) -> None:
        """Another master, from now on; who listens is told."""
        await until(lambda: self._hearing)
        before, self.master, self.epoch = self.master, port, self.epoch + 1
        for each in self._hearing:
            each.write(_array(">", ["message", "+switch-master", f"main 127.0.0.1 {before} 127.0.0.1 {port}"]))


def _array(kind: str, words: list[str], more: bytes = b"") -> bytes:
    parts = "".join(f"${len(each)}\r\n{each}\r\n" for each in words)
    return f"{kind}{len(words) + bool(more)}\r\n{parts}".encode() + more


def _url(*played: Sentinel) -> str:
    return f"sentinel://{','.join(f'127.0.0.1:{each.port}' for each in played)}/main"


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as made:
        yield made


async def test_the_newest_word_counts_though_most_have_not_heard_it(stack: AsyncExitStack) -> None:
    played = [await stack.enter_async_context(Sentinel(*each)) for each in ((1, 4), (2, 5), (1, 4))]
    assert await master_of(parse_url(_url(*played))) == ("127.0.0.1", 2)


async def test_one_that_never_answers_is_not_waited_for(stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinels, "ANSWERS_WITHIN_S", 3600.0)
    silent = await stack.enter_async_context(Sentinel(1, is_silent=True))
    played = [await stack.enter_async_context(Sentinel(1)) for _ in range(2)]
    assert await master_of(parse_url(_url(silent, *played))) == ("127.0.0.1", 1)


async def test_a_master_that_all_of_them_see_down_is_none(stack: AsyncExitStack) -> None:
    played = [await stack.enter_async_context(Sentinel(1, flags="s_down,o_down,master")) for _ in range(2)]
    with pytest.raises(StoreError, match=r"no Sentinel of .* knows its master.*s_down"):
        await master_of(parse_url(_url(*played)))


async def test_a_master_that_is_named_no_more_is_left_at_once_though_it_answers(
    stack: AsyncExitStack, binary: Path, tmp_path: Path
) -> None:
    first, second = free_port(), free_port()
    for port in (first, second):
        stack.enter_context(playing(binary, tmp_path, port, ["--save", ""]))
    sentinel = await stack.enter_async_context(Sentinel(first))
    connection = Connection(_url(sentinel))
    stack.push_async_callback(connection.close)
    await connection.open(20)
    is_up = asyncio.Event()
    connection.on_up(is_up.set)
    await sentinel.names(second)
    async with asyncio.timeout(WITHIN_S):
        await is_up.wait()
    told = bytes(await connection.command("INFO", "server")).decode()
    assert f"tcp_port:{second}" in told


async def test_whom_they_name_while_it_is_no_master_is_not_believed(
    stack: AsyncExitStack, binary: Path, tmp_path: Path
) -> None:
    port = free_port()
    stack.enter_context(playing(binary, tmp_path, port, ["--save", "", "--replicaof", f"127.0.0.1 {free_port()}"]))
    sentinel = await stack.enter_async_context(Sentinel(port))
    connection = Connection(_url(sentinel))
    stack.push_async_callback(connection.close)
    await connection.open(wait_s=0)
    await until(lambda: "is no master" in connection.problem)
