"""The one connection: shared by all, cut, stalled, refused, and back again."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import SettingsError, StoreError
from orchestrator.store.address import Address, parse_url
from orchestrator.store.connection import Connection
from orchestrator.store.scripts import INSPECT, Script
from tests.store.playing import Connect, Server, back, free_port, playing
from tests.waiting import until


def script(source: str) -> Script:
    return Script("test", source, hashlib.sha1(source.encode()).hexdigest())


async def test_ten_thousand_scripts_in_a_pipeline_get_each_its_own_answer(store: Connection) -> None:
    echo = script("return ARGV[1]")
    got = await asyncio.gather(*(store.script(echo, (), (at,)) for at in range(10_000)))
    assert got == [str(at).encode() for at in range(10_000)]


async def test_a_script_that_redis_forgot_is_loaded_again(store: Connection) -> None:
    echo = script("return ARGV[1]")
    assert await store.script(echo, (), ("a",)) == b"a"
    await store.command("SCRIPT", "FLUSH")
    got = await asyncio.gather(*(store.script(echo, (), (at,)) for at in range(50)))
    assert got == [str(at).encode() for at in range(50)]
    stats = await store.command("INFO", "commandstats")
    assert stats.count(b"cmdstat_script|load") == 1


async def test_a_refused_command_fails_alone(store: Connection) -> None:
    await store.command("SET", "olm:text", "x")
    got = await asyncio.gather(
        store.command("INCR", "olm:text"), store.command("ECHO", "a"), store.command("NOSUCH"), return_exceptions=True
    )
    assert isinstance(got[0], StoreError)
    assert got[1] == b"a"
    assert isinstance(got[2], StoreError)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_cancelled_callers_do_not_shift_the_answers_of_others(shared_server: Server, seed: int) -> None:
    asyncio.run(_interleave(shared_server, random.Random(seed)))


async def _interleave(server: Server, rng: random.Random) -> None:
    connection = Connection(server.url)
    await connection.open(20)
    heard: list[bytes] = []
    echo, fails = script("return ARGV[1]"), script("return redis.error_reply(ARGV[1])")
    try:
        tasks: dict[int, asyncio.Task[object]] = {}
        for at in range(rng.randrange(20, 200)):
            act = rng.random()
            if act < 0.05:
                work = connection.subscribe(f"channel-{at}", heard.append)
            elif act < 0.1:
                work = connection.command("PUBLISH", f"channel-{rng.randrange(at + 1)}", "news")
            elif act < 0.2:
                work = connection.script(fails, (), (at,))
            elif act < 0.6:
                work = connection.script(echo, (), (at,))
            else:
                work = connection.command("ECHO", at)
            tasks[at] = asyncio.create_task(work)  # type: ignore[arg-type]
            if rng.random() < 0.3:
                tasks[rng.choice(list(tasks))].cancel()
            if rng.random() < 0.3:
                await asyncio.sleep(0)
        done = dict(zip(tasks, await asyncio.gather(*tasks.values(), return_exceptions=True), strict=True))
        for at, answer in done.items():
            if isinstance(answer, bytes):
                assert answer == str(at).encode()
            elif isinstance(answer, StoreError):
                assert str(answer).endswith(f" {at}")
            else:
                assert answer is None or isinstance(answer, (int, asyncio.CancelledError))
        assert await connection.command("ECHO", "last") == b"last"
    finally:
        await connection.close()


async def test_when_the_server_dies_everybody_who_waits_is_told_and_the_connection_comes_back(
    own_server: Server, connect: Connect
) -> None:
    connection = await connect(own_server)
    ups = 0

    def up() -> None:
        nonlocal ups
        ups += 1

    connection.on_up(up)
    own_server.pause()
    waiting = [asyncio.create_task(connection.command("PING")) for _ in range(5)]
    await asyncio.sleep(0)
    own_server.kill()
    got = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(each, StoreError) for each in got)
    assert not connection.is_up
    assert "does not answer" in connection.problem
    with pytest.raises(StoreError, match="does not answer"):
        await connection.command("PING")
    own_server.start()
    await back(connection)
    assert await connection.command("PING") == b"PONG"
    assert connection.is_up
    assert connection.problem == ""
    assert ups == 1


async def test_a_silent_server_is_given_up_after_the_time_limit(own_server: Server, connect: Connect) -> None:
    connection = await connect(own_server, timeout_s=0.4)
    own_server.pause()
    with pytest.raises(StoreError, match=r"no answer within 0\.4 s"):
        await connection.command("PING")
    own_server.go_on()
    await back(connection)


async def test_a_silent_server_is_noticed_even_if_nobody_asks(own_server: Server, connect: Connect) -> None:
    connection = await connect(own_server, timeout_s=0.2)
    own_server.pause()

    async def is_down() -> bool:
        return not connection.is_up

    await until(is_down)


async def test_a_script_asked_with_repeat_survives_a_restart(own_server: Server, connect: Connect) -> None:
    connection = await connect(own_server, timeout_s=20)
    echo = script("return ARGV[1]")
    own_server.pause()
    repeated = asyncio.create_task(connection.script(echo, (), ("a",), repeat=True))
    plain = asyncio.create_task(connection.script(echo, (), ("b",)))
    await asyncio.sleep(0)
    own_server.kill()
    with pytest.raises(StoreError):
        await plain
    own_server.start()
    assert await repeated == b"a"


async def test_a_repeat_ends_at_the_time_limit(own_server: Server, connect: Connect) -> None:
    connection = await connect(own_server, timeout_s=0.3)
    own_server.kill()
    with pytest.raises(StoreError, match="does not answer"):
        await connection.script(INSPECT, [b"k"] * 7, repeat=True)


async def test_channels_are_heard_again_after_a_reconnect(own_server: Server, connect: Connect) -> None:
    connection, speaker = await connect(own_server), await connect(own_server)
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    await connection.subscribe("olm:news", heard.put_nowait)
    await speaker.command("PUBLISH", "olm:news", "one")
    assert await heard.get() == b"one"
    own_server.kill()
    own_server.start()
    await back(connection, speaker)
    assert await speaker.command("PUBLISH", "olm:news", "two") == 1
    assert await heard.get() == b"two"
    await connection.unsubscribe("olm:news")
    assert await speaker.command("PUBLISH", "olm:news", "three") == 0


async def test_a_listener_that_fails_disturbs_nobody(store: Connection) -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))

    def fail(_: bytes) -> None:
        raise ValueError("a listener's mistake")

    await store.subscribe("olm:news", fail)
    await store.command("PUBLISH", "olm:news", "x")
    assert await store.command("ECHO", "a") == b"a"
    assert [str(each) for each in told] == ["a listener's mistake"]


async def test_a_server_that_wants_a_password_is_told_it_and_a_wrong_one_is_explained(
    own_server: Server, connect: Connect
) -> None:
    admin = await connect(own_server)
    await admin.command("ACL", "SETUSER", "gate.way", "on", ">s3cr:t/@", "~*", "&*", "+@all")
    await admin.command("ACL", "SETUSER", "default", "off")
    for password, fits in (("s3cr%3At%2F%40", True), ("wrong", False)):
        url = f"unix://gate%2Eway:{password}@{own_server.url.removeprefix('unix://')}?db=3"
        connection = Connection(url, name="gw0")
        try:
            if fits:
                await connection.open(20)
                assert b"db=3" in await connection.command("CLIENT", "INFO")
                assert b"name=gw0" in await connection.command("CLIENT", "INFO")
            else:
                assert "WRONGPASS" in await refusal(connection)
        finally:
            await connection.close()


async def test_a_server_that_is_still_loading_is_not_up_yet() -> None:
    async with _played([b"%1\r\n$5\r\nproto\r\n:3\r\n-LOADING Redis is loading the dataset in memory\r\n"]) as url:
        connection = Connection(url)
        assert "LOADING" in await refusal(connection)
        await connection.close()


async def test_what_does_not_speak_redis_is_explained() -> None:
    async with _played([b"HTTP/1.1 400 Bad Request\r\n\r\n"]) as url:
        connection = Connection(url)
        assert "does not speak Redis' protocol" in await refusal(connection)
        await connection.close()


async def refusal(connection: Connection) -> str:
    """What who waits for it is told, once the first try has failed."""
    await connection.open(0)
    await until(lambda: connection.has_failed)
    with pytest.raises(StoreError) as refused:
        await connection.open(0.01)
    return str(refused.value)


@asynccontextmanager
async def _played(replies: list[bytes]) -> AsyncIterator[str]:
    """A server on TCP that answers each connection's first bytes with these."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.writelines(replies)
        await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("url", "means"),
    [
        ("redis://h", Address(hosts=(("h", 6379),))),
        ("redis://:pw@[::1]:7000/2", Address(hosts=(("::1", 7000),), password="pw", db=2)),
        ("rediss://u:p%40@h:1/0", Address(hosts=(("h", 1),), username="u", password="p@", is_tls=True)),
        ("unix:///run/a%20b.sock?db=4", Address(path="/run/a b.sock", db=4)),
        ("sentinel://a:1,b/main/5", Address(hosts=(("a", 1), ("b", 26379)), master="main", db=5)),
        ("sentinel://u:p@a/main", Address(hosts=(("a", 26379),), master="main", username="u", password="p")),
    ],
)
def test_urls_say_where_redis_is(url: str, means: Address) -> None:
    assert parse_url(url) == means
    assert "pw" not in str(means)


@pytest.mark.parametrize("url", ["", "http://h", "unix://", "redis://u:secret@h:port", "sentinel://a", "redis://h/x"])
def test_a_url_that_is_none_is_refused_without_repeating_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="forms") as refused:
        parse_url(url)
    assert "secret" not in str(refused.value)


def test_it_works_the_same_on_uvloop(shared_server: Server) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def talk() -> None:
        connection = Connection(shared_server.url)
        await connection.open(20)
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        echo = script("redis.call('PUBLISH', 'olm:news', ARGV[1]) return ARGV[1]")
        await connection.script(echo, (), ("known",))  # whose script Redis did not know is asked again, after others
        await connection.subscribe("olm:news", heard.put_nowait)
        got = await asyncio.gather(*(connection.script(echo, (), (at,)) for at in range(1000)))
        assert got == [await heard.get() for _ in range(1000)] == [str(at).encode() for at in range(1000)]
        await connection.close()

    uvloop.run(talk())


async def test_sentinels_are_asked_for_the_master_also_after_a_failover(binary: Path, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        first, second, sentinel = (free_port() for _ in range(3))
        for port in (first, second):
            stack.enter_context(playing(binary, tmp_path, port, ["--save", ""]))
        config = tmp_path / "sentinel.conf"
        config.write_text(f"sentinel monitor main 127.0.0.1 {first} 1\n")
        stack.enter_context(playing(binary, tmp_path, sentinel, ["--sentinel"], config))
        connection = Connection(f"sentinel://127.0.0.1:{sentinel}/main")
        stack.push_async_callback(connection.close)
        await connection.open(20)
        assert f":{first}".encode() in await connection.command("CLIENT", "INFO")
        asked = await _sentinel(sentinel, "REMOVE main", f"MONITOR main 127.0.0.1 {second} 1")
        assert asked == [b"+OK", b"+OK"]
        with suppress(StoreError):
            await connection.command("CLIENT", "KILL", "SKIPME", "no", "TYPE", "normal")

        async def has_moved() -> bool:
            await back(connection)
            return f":{second}".encode() in await connection.command("CLIENT", "INFO")

        await until(has_moved)


async def _sentinel(port: int, *commands: str) -> list[bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        answers = []
        for each in commands:
            writer.write(f"SENTINEL {each}\r\n".encode())
            answers.append((await reader.readline()).strip())
        return answers
    finally:
        writer.close()
        await writer.wait_closed()
