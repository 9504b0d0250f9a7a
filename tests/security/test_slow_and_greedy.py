"""Who sends slowly, reads slowly, or asks for more than its share: told so or cut off, and nobody else notices."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.gateway import connection as http
from orchestrator.gateway.visitors import LOOKED_AT, Visitors
from tests.gateway.asking import connected
from tests.security.doors import Door, door, left, limits, statuses, thrown
from tests.waiting import WITHIN_S

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST_GET = GET[:-2] + b"Connection: close\r\n\r\n"
KIB = 1024


async def test_a_head_that_trickles_is_ended_after_its_time_however_steadily_it_does():
    async with door() as opened, connected(opened.url) as (reader, writer):
        writer.write(HEAD)
        (visitor,) = await _visitors(opened, 1)
        await opened.until(lambda: not visitor.is_unused)
        opened.later(http.HEAD_S / 2)
        seen = visitor._raw_size
        writer.write(b"X-More: 1\r\n")
        await opened.until(lambda: visitor._raw_size > seen)
        opened.later(http.HEAD_S + 1)
        assert statuses(await reader.read()) == [408]


async def test_a_body_that_trickles_is_ended_after_its_time_however_steadily_it_does():
    async with door(within_s=0.3) as opened, connected(opened.url) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 100000\r\n\r\n")
        answer = asyncio.ensure_future(left(reader))
        async with asyncio.timeout(WITHIN_S):
            while not answer.done():
                if not writer.is_closing():
                    writer.write(b"x")
                await asyncio.wait((answer,), timeout=0.02)
        assert statuses(answer.result()) == [408]
        assert opened.asked[0]._pieces == []


async def test_connections_that_ask_nothing_are_closed():
    async with door() as opened:
        async with connected(opened.url) as (reader, _), connected(opened.url) as (other, _):
            await opened.until(lambda: len(opened.visitors) == 2)
            opened.later(http.IDLE_S + 1)
            assert (await reader.read(), await other.read()) == (b"", b"")
        await opened.until(lambda: len(opened.visitors) == 0)


async def test_line_ends_before_a_request_keep_no_connection_open():
    async with door() as opened, connected(opened.url) as (reader, writer):
        (visitor,) = await _visitors(opened, 1)
        for _ in range(10):
            opened.later(http.IDLE_S / 2)
            writer.write(b"\r\n" * 100)
        assert visitor.is_unused
        opened.later(http.IDLE_S + 1)
        assert await left(reader) == b""


async def test_answers_that_nobody_reads_are_not_made_one_after_the_other():
    asked, answer = 400, b"x" * 256 * KIB
    async with door(answer) as opened, connected(opened.url) as (reader, writer):
        writer.transport.pause_reading()
        writer.write(GET * asked)
        (visitor,) = await _visitors(opened, 1)
        await opened.until(lambda: visitor.is_full and visitor.task is None)
        made = len(opened.asked)
        assert made < asked / 4
        assert visitor.transport.get_write_buffer_size() < 4 * len(answer)
        writer.transport.resume_reading()
        received = 0
        async with asyncio.timeout(WITHIN_S):
            while received < asked * len(answer):
                received += len(await reader.read(2**20))
        assert len(opened.asked) == asked


async def test_an_answer_that_nobody_reads_is_dropped_with_its_connection():
    async with door(b"x" * 16 * KIB * KIB) as opened, connected(opened.url) as (_, writer):
        writer.transport.pause_reading()
        writer.write(GET)
        (visitor,) = await _visitors(opened, 1)
        await opened.until(lambda: visitor.is_full and visitor.task is None)
        opened.later(1)
        opened.later(http.UNREAD_S + 2)
        await opened.until(lambda: len(opened.visitors) == 0)


async def test_the_last_answer_of_a_connection_that_nobody_reads_is_dropped_with_it():
    async with door(b"x" * 16 * KIB * KIB) as opened, connected(opened.url) as (_, writer):
        writer.transport.pause_reading()
        writer.write(LAST_GET)
        (visitor,) = await _visitors(opened, 1)
        await opened.until(lambda: visitor.transport.is_closing())
        opened.later(1)
        opened.later(http.UNREAD_S + 2)
        await opened.until(lambda: len(opened.visitors) == 0)


async def test_a_body_that_nobody_asked_for_is_not_kept():
    async with door() as opened, connected(opened.url) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        await opened.until(lambda: len(opened.asked) == 1)
        assert opened.asked[0]._pieces == []


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("kind", ["trailer", "extension", "trailers"])
async def test_what_stands_around_a_body_is_as_limited_as_a_head(kind):
    begin = {"trailer": b"1\r\nx\r\n0\r\nX-Long: ", "extension": b"1;", "trailers": b"1\r\nx\r\n0\r\n"}[kind]
    more = b"X-Many: 1\r\n" * 6000 if kind == "trailers" else b"x" * 65_536
    async with door() as opened, connected(opened.url) as (reader, writer):
        writer.write(CHUNKED + begin)
        await opened.until(lambda: len(opened.asked) == 1)
        for _ in range(20):
            writer.write(more)
        await opened.until(lambda: len(opened.bodies) == 1)
        assert "could not be read" in str(opened.bodies[0])
        async with asyncio.timeout(WITHIN_S):
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400")


async def test_what_stands_behind_a_body_is_no_header():
    body = b"2\r\nhi\r\n0\r\nAuthorization: Bearer stolen\r\nHost: evil\r\nContent-Encoding: gzip\r\n\r\n"
    async with door() as opened, connected(opened.url) as (reader, writer):
        writer.write(CHUNKED + body)
        async with asyncio.timeout(WITHIN_S):
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    assert opened.bodies == [b"hi"]
    assert opened.asked[0].headers[b"host"] == b"localhost"
    assert b"authorization" not in opened.asked[0].headers


async def test_a_body_of_single_bytes_is_held_as_what_it_is():
    async with door() as opened, connected(opened.url) as (reader, writer):
        writer.write(CHUNKED + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
        async with asyncio.timeout(WITHIN_S):
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    assert opened.bodies == [b"x" * 20_000]
    assert len(opened.asked[0]._pieces) < 100


LARGE = {
    "100 000 headers": b"".join(b"X-%d: 1\r\n" % each for each in range(100_000)),
    "one header 100 000 times": b"A:\r\n" * 100_000,
    "one of 100 kB": b"X: " + b"x" * 100_000 + b"\r\n",
}


@pytest.mark.parametrize("kind", LARGE)
async def test_a_head_that_is_too_large_is_refused_and_never_answered(kind):
    async with door() as opened:
        received = await thrown(opened.url, GET[:-2] + LARGE[kind] + b"\r\n")
        assert statuses(received) in ([431], [])
        assert opened.asked == []


async def test_a_request_behind_a_large_one_is_no_large_one():
    body = b"x" * 100_000
    async with door() as opened, connected(opened.url) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 100000\r\n\r\n" + body + GET[:20])
        await opened.until(lambda: len(opened.bodies) == 1)
        writer.write(GET[20:])
        async with asyncio.timeout(WITHIN_S):
            received = b""
            while received.count(b"HTTP/1.1 200") < 2:
                received += await reader.read(65_536)


# --- how many ---------------------------------------------------------------------------------------------------------


class Guest:
    """A connection, as far as those who count them know one."""

    def __init__(self, address: str, *, is_unused: bool = False) -> None:
        self.address, self.is_unused, self.is_closed = address, is_unused, False

    def close_unused(self) -> None:
        self.is_closed = True


def guests(**more: Any) -> Visitors[Guest]:
    allowed = limits(**more)
    return Visitors(lambda: allowed)


def test_one_address_has_so_many_connections_and_others_have_theirs():
    visitors = guests(connections_per_address=2, fronts=("10.9.0.0/16",))
    first, *others = (Guest("10.0.0.1") for _ in range(3))
    assert [visitors.add(each) for each in (first, others[0])] == [None, None]
    refusal = visitors.add(others[1])
    assert refusal is not None
    assert (refusal.status, "limits.connections_per_address" in refusal.why) == (429, True)
    visitors.discard(others[1])
    assert visitors.add(Guest("10.0.0.2")) is None
    visitors.discard(first)
    assert visitors.add(Guest("10.0.0.1")) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "", "10.9.3.4", "::ffff:10.9.3.4"])
def test_this_machine_and_the_proxies_that_are_named_are_not_counted(address):
    visitors = guests(connections_per_address=1, fronts=("10.9.0.0/16",))
    assert [visitors.add(Guest(address)) for _ in range(3)] == [None] * 3


def test_all_addresses_of_one_ipv6_network_are_one_caller_and_the_next_network_is_another():
    visitors = guests(connections_per_address=2)
    assert [visitors.add(Guest(f"2001:db8:0:7::{number}")) for number in (1, 2)] == [None, None]
    third = Guest("2001:db8:0:7:ffff:ffff:ffff:ffff")
    refusal = visitors.add(third)
    assert refusal is not None
    assert refusal.status == 429
    assert visitors.add(Guest("2001:db8:0:8::1")) is None
    visitors.discard(third)
    assert len(visitors._by_address) == 2


@pytest.mark.parametrize("addresses", [("::ffff:192.0.2.1", "::ffff:192.0.2.2"), ("fe80::1%eth0", "fe80::2%eth0")])
def test_neighbours_are_told_apart_where_one_ipv6_network_has_many_of_them(addresses):
    visitors = guests(connections_per_address=1)
    assert [visitors.add(Guest(each)) for each in addresses] == [None, None]
    refusal = visitors.add(Guest(addresses[0]))
    assert refusal is not None
    assert refusal.status == 429


def test_who_has_left_leaves_no_trace():
    visitors = guests()
    for index in range(100):
        guest = Guest(f"10.0.0.{index}")
        visitors.add(guest)
        visitors.discard(guest)
        visitors.discard(guest)
    assert (len(visitors), len(visitors._by_address)) == (0, 0)


def test_where_all_rooms_are_taken_one_that_nobody_uses_is_given_to_the_next():
    visitors = guests()
    visitors._room = 2
    busy, resting = Guest("10.0.0.1"), Guest("10.0.0.2", is_unused=True)
    assert [visitors.add(busy), visitors.add(resting)] == [None, None]
    assert visitors.add(Guest("10.0.0.3", is_unused=True)) is None
    assert (busy.is_closed, resting.is_closed) == (False, True)


def test_the_one_that_was_used_longest_ago_makes_room_not_the_one_whose_client_asks_again_and_again():
    visitors = guests()
    visitors._room = 2
    asking, resting = Guest("10.0.0.1", is_unused=True), Guest("10.0.0.2", is_unused=True)
    assert [visitors.add(asking), visitors.add(resting)] == [None, None]
    visitors.used(asking)
    assert visitors.add(Guest("10.0.0.3")) is None
    assert (asking.is_closed, resting.is_closed) == (False, True)


def test_long_streams_ahead_of_all_others_do_not_hide_those_that_rest():
    visitors = guests()
    visitors._room = LOOKED_AT + 10
    streams = [Guest("10.0.0.1") for _ in range(LOOKED_AT)]
    resting = [Guest("10.0.0.2", is_unused=True) for _ in range(10)]
    assert [visitors.add(each) for each in (*streams, *resting)] == [None] * (LOOKED_AT + 10)
    visitors.add(Guest("10.0.0.3"))  # looks at the streams, and at them no more
    assert visitors.add(Guest("10.0.0.3")) is None
    assert [each.is_closed for each in resting].count(True) == 1
    assert not any(each.is_closed for each in streams)


def test_who_has_left_while_it_was_answered_does_not_come_back():
    visitors = guests()
    gone = Guest("10.0.0.1")
    visitors.add(gone)
    visitors.discard(gone)
    visitors.used(gone)
    assert len(visitors) == 0


def test_where_all_rooms_are_in_use_the_next_is_told_so():
    visitors = guests()
    visitors._room = 2
    assert [visitors.add(Guest("10.0.0.1")) for _ in range(2)] == [None, None]
    refusal = visitors.add(Guest("10.0.0.2", is_unused=True))
    assert refusal is not None
    assert refusal.status == 503


async def test_hundreds_of_connections_that_rest_keep_nobody_out():
    async with door() as opened:
        opened.visitors._room = 100
        resting = [await asyncio.open_connection("127.0.0.1", opened.port) for _ in range(300)]
        try:
            assert statuses(await thrown(opened.url, LAST_GET)) == [200]
            await opened.until(lambda: len(opened.visitors) <= 101)
        finally:
            for _, writer in resting:
                writer.transport.abort()


async def _visitors(opened: Door, n: int) -> list[Any]:
    await opened.until(lambda: len(opened.visitors) == n)
    return list(opened.visitors)
