"""Models of servers that somebody else runs, changed by the controller that leads: played servers, a real Valkey."""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from orchestrator.core.chores import Chore, ChoreKind, Ending
from orchestrator.core.errors import HostError
from orchestrator.fleet import managing
from orchestrator.fleet.managing import Managing
from orchestrator.store import chores as store_chores
from orchestrator.store.chores import Chores
from orchestrator.store.connection import Connection
from tests.fleet.given_world import WITHIN_S, GivenWorld, Played, given_world, model
from tests.store.playing import Server

LATER = model("later:8b", is_pulled=False, file_bytes=10**9, digest="d1" * 32)
KEY = 32 * b"k"
# A pull that goes on until somebody ends it, and one that takes a moment.
SLOW, QUICK = {"pull_bandwidth_bytes_s": 1e3, "speed": 1.0}, {"pull_bandwidth_bytes_s": 1e9, "speed": 2.0}


class Asker:
    """Who asks for changes, as a gateway does, and the controllers that carry them out."""

    def __init__(self, world: GivenWorld, url: str) -> None:
        self.world, self._url = world, url
        self.ears = Chores(world.connection, KEY)
        self.audited: list[tuple[str, str, str]] = []
        self.counted: list[tuple[str, str]] = []
        self._controllers: list[asyncio.Task[None]] = []

    async def lead(self) -> asyncio.Task[None]:
        """A controller takes up what is asked for."""
        assert self.world.fleet is not None
        connection = Connection(self._url, name="controller")
        await connection.open(20)
        task = asyncio.create_task(self._keep(connection))
        self._controllers.append(task)
        return task

    async def _keep(self, connection: Connection) -> None:
        assert self.world.fleet is not None
        book = Chores(connection, KEY)
        try:
            await book.start()
            lead, fleet = self.world.store.lead, self.world.fleet
            await Managing(book, lead, fleet, self._audit, count=self._count).run()
        finally:
            await connection.close()

    def _audit(self, chore: Chore) -> None:
        self.audited.append((chore.who, chore.kind, chore.what))

    def _count(self, kind: ChoreKind, outcome: str) -> None:
        self.counted.append((kind, outcome))

    async def kill(self, controller: asyncio.Task[None]) -> None:
        controller.cancel()
        await asyncio.wait((controller,))

    async def close(self) -> None:
        for each in self._controllers:
            await self.kill(each)

    async def ask(self, kind: ChoreKind, **body: Any) -> Chore:
        return await self.ears.ask(Chore(kind, body, "tester"))

    async def told(self, chore: Chore) -> tuple[list[dict[str, Any]], Ending]:
        """All that is told of it, to its end."""
        lines: list[dict[str, Any]] = []
        async with asyncio.timeout(WITHIN_S), aclosing(self.ears.follow(chore)) as said:
            async for each in said:
                if isinstance(each, Ending):
                    return lines, each
                lines += [dict(each)] if each is not None else []
        raise AssertionError("it has no end")

    async def done(self, kind: ChoreKind, **body: Any) -> Ending:
        return (await self.told(await self.ask(kind, **body)))[1]

    async def until_told(self, chore: Chore, what: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until a line like that was told."""
        async with asyncio.timeout(WITHIN_S), aclosing(self.ears.follow(chore)) as said:
            async for each in said:
                assert not isinstance(each, Ending), each
                if each is not None and what(dict(each)):
                    return


@pytest.fixture
async def asker(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asker]:
    monkeypatch.setattr(managing, "LOOK_EVERY_S", 0.2)
    async with given_world(tmp_path, server, monkeypatch) as world:
        asker = Asker(world, server.url)
        await asker.ears.start()
        try:
            yield asker
        finally:
            await asker.close()


@asynccontextmanager
async def serving(asker: Asker, *played: Played, **settings: Any) -> AsyncIterator[asyncio.Task[None]]:
    """The fleet of these servers, and a controller that changes their models."""
    for number, each in enumerate(played):
        each.start()
        settings.setdefault("instances", []).append({"url": each.url, "name": f"server-{number}"})
    asker.world.configure(*settings.pop("instances"), **settings)
    await asker.world.begin()
    yield await asker.lead()


async def names(played: Played) -> set[str]:
    return {each["name"] for each in (await played.ask("/api/tags"))["models"]}


# --- pull ------------------------------------------------------------------------------------------------------------


async def test_a_pulled_model_is_on_every_server_and_can_be_called_when_it_is_told(asker: Asker) -> None:
    one, two = (asker.world.played(model("small:1b"), LATER, **QUICK) for _ in range(2))
    async with serving(asker, one, two):
        lines, ended = await asker.told(await asker.ask(ChoreKind.PULL, model="later:8b"))
        assert ended == Ending()
        assert await names(one) == await names(two) == {"small:1b", "later:8b"}
        assert asker.world.last.pool("later:8b") is not None
        assert await asker.done(ChoreKind.DELETE, model="nobody") == Ending(404, "model 'nobody' not found")
        assert asker.counted == [("pull", "done"), ("delete", "refused")]
    statuses = [each["status"] for each in lines]
    assert statuses[0] == "pulling manifest"
    assert statuses[-2:] == ["verifying sha256 digest", "writing manifest"]
    layer = [each for each in lines if "digest" in each]
    assert {each["total"] for each in layer} == {10**9}
    completed = [each.get("completed", 0) for each in layer]
    assert completed == sorted(completed)
    assert completed[-1] == 10**9


async def test_servers_on_which_a_pull_failed_are_named_and_the_others_have_it(asker: Asker) -> None:
    one = asker.world.played(model("small:1b"), LATER, **QUICK)
    two, gone = asker.world.played(model("small:1b")), asker.world.played(model("small:1b"))
    async with serving(asker, one, two, gone):
        gone.kill()
        await asker.world.until(lambda: asker.world.given(gone).state == "down", "it is known to be down")
        ended = await asker.done(ChoreKind.PULL, model="later:8b")
        assert await names(one) == {"small:1b", "later:8b"}
    assert ended.status == 500
    assert "failed on 2 of 3 nodes" in ended.error
    assert "server-1: pull model manifest: file does not exist" in ended.error
    assert "server-2: no connection" in ended.error
    assert ended.error.endswith("done on server-0")


async def test_what_no_registry_has_is_refused_in_ollamas_words(asker: Asker) -> None:
    one, two = (asker.world.played(model("small:1b")) for _ in range(2))
    async with serving(asker, one, two):
        ended = await asker.done(ChoreKind.PULL, model="nobody-has-this")
    assert ended == Ending(500, "pull model manifest: file does not exist")


async def test_who_asks_for_the_same_meanwhile_follows_what_is_under_way(asker: Asker) -> None:
    one = asker.world.played(model("small:1b"), LATER, **SLOW)
    async with serving(asker, one):
        first = await asker.ask(ChoreKind.PULL, model="later:8b")
        assert (await asker.ask(ChoreKind.PULL, model="LATER:8b")).id == first.id
        assert (await asker.ask(ChoreKind.PULL, model="other:8b")).id != first.id


async def test_a_pull_goes_on_when_who_asked_for_it_has_left(asker: Asker) -> None:
    one = asker.world.played(model("small:1b"), LATER, pull_bandwidth_bytes_s=1e8, speed=5.0)
    async with serving(asker, one):
        chore = await asker.ask(ChoreKind.PULL, model="later:8b")
        await asker.until_told(chore, lambda line: line.get("completed", 0) > 0)  # and follows it no longer
        await asker.world.until(lambda: asker.world.last.pool("later:8b") is not None, "it is there")


async def test_another_controller_goes_on_where_one_was_killed(asker: Asker) -> None:
    one = asker.world.played(model("small:1b"), LATER, pull_bandwidth_bytes_s=1e8, speed=2.0)
    async with serving(asker, one) as first:
        chore = await asker.ask(ChoreKind.PULL, model="later:8b")
        await asker.until_told(chore, lambda line: line.get("completed", 0) > 10**7)
        await asker.kill(first)
        assert "later:8b" not in await names(one)
        await asker.lead()
        _, ended = await asker.told(chore)
        assert ended == Ending()
        assert "later:8b" in await names(one)


async def test_a_deletion_ends_the_pull_of_its_model(asker: Asker) -> None:
    one = asker.world.played(model("small:1b"), LATER, **SLOW)
    async with serving(asker, one):
        pull = await asker.ask(ChoreKind.PULL, model="later:8b")
        await asker.until_told(pull, lambda line: "digest" in line)
        deleted = await asker.done(ChoreKind.DELETE, model="later:8b")
        assert deleted == Ending(404, "model 'later:8b' not found")
        assert (await asker.told(pull))[1] == Ending(409, "model 'later:8b' was deleted meanwhile")


async def test_where_no_controller_is_at_work_it_is_given_up_and_not_done_later(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = asker.world.played(model("small:1b"), model("old:1b"))
    async with serving(asker, one) as controller:
        await asker.kill(controller)
        monkeypatch.setattr(store_chores, "SILENT_S", 0.5)
        ended = await asker.done(ChoreKind.DELETE, model="old:1b")
        assert ended.status == 503
        assert "no controller was at work on this" in ended.error
        await asker.lead()
        assert await asker.done(ChoreKind.DELETE, model="nobody") == Ending(404, "model 'nobody' not found")
        assert "old:1b" in await names(one)


async def test_a_controller_that_leads_no_longer_changes_nothing(asker: Asker) -> None:
    one = asker.world.played(model("small:1b"), model("old:1b"))
    async with serving(asker, one):
        await asker.world.end()
        await asker.world.connection.command(b"SET", "olm:{cluster}:leader", b"99999999999999 somebody-else")
        chore = await asker.ask(ChoreKind.DELETE, model="old:1b")
        # Whoever leads by another token is who may tell of it.
        assert not await asker.ears.end(chore, 7, Ending())
        assert await asker.ears.end(chore, 99999999999999, Ending(500, "by the other"))
        assert (await asker.told(chore))[1].error == "by the other"
        assert "old:1b" in await names(one)


async def test_what_a_redis_that_was_emptied_has_forgotten_is_said_to_be_given_up(
    asker: Asker, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = asker.world.played(model("small:1b"), LATER, **SLOW)
    async with serving(asker, one):
        chore = await asker.ask(ChoreKind.PULL, model="later:8b")
        await asker.until_told(chore, lambda line: "digest" in line)
        monkeypatch.setattr(store_chores, "SILENT_S", 3.0)
        server.kill()
        server.lose_data()
        server.start()
        _, ended = await asker.told(chore)
        assert ended.status == 503
        assert await asker.done(ChoreKind.COPY, source="small:1b", destination="mine") == Ending()


async def test_a_redis_that_was_away_for_a_moment_costs_a_pull_nothing(asker: Asker, server: Server) -> None:
    one = asker.world.played(model("small:1b"), LATER, pull_bandwidth_bytes_s=1e8, speed=2.0)
    async with serving(asker, one):
        chore = await asker.ask(ChoreKind.PULL, model="later:8b")
        await asker.until_told(chore, lambda line: line.get("completed", 0) > 10**7)
        server.stop()
        server.start()
        assert (await asker.told(chore))[1] == Ending()
        assert "later:8b" in await names(one)


# --- copy, delete, create, push --------------------------------------------------------------------------------------


async def test_a_copy_is_made_wherever_its_source_is(asker: Asker) -> None:
    one, two = asker.world.played(model("small:1b")), asker.world.played(model("big:8b"))
    async with serving(asker, one, two):
        assert await asker.done(ChoreKind.COPY, source="small:1b", destination="mine") == Ending()
        assert (await names(one), await names(two)) == ({"small:1b", "mine:latest"}, {"big:8b"})
        missing = await asker.done(ChoreKind.COPY, source="nobody", destination="mine")
        assert missing == Ending(404, 'model "nobody" not found')


async def test_a_deleted_model_is_gone_from_every_server_and_from_the_pools(asker: Asker) -> None:
    one, two = asker.world.played(model("small:1b"), model("old:1b")), asker.world.played(model("old:1b"))
    async with serving(asker, one, two):
        assert await asker.done(ChoreKind.DELETE, model="old:1b") == Ending()
        assert (await names(one), await names(two)) == ({"small:1b"}, set())
        assert asker.world.last.pool("old:1b") is None


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"tiers": {"small": {"model": "kept:1b"}}, "routes": {"auto": {"primary": "small"}}}, "tiers.small"),
        ({"instances": [{"url": "http://127.0.0.1:1", "model": "kept:1b"}]}, "`instances`, 127.0.0.1:1"),
    ],
)
async def test_a_model_that_the_settings_name_is_not_deleted(
    asker: Asker, settings: dict[str, Any], where: str
) -> None:
    one = asker.world.played(model("kept:1b"))
    async with serving(asker, one, **settings):
        ended = await asker.done(ChoreKind.DELETE, model="KEPT:1b")
        assert ended.status == 409
        assert f"is named in cluster.yaml ({where}): take it out there, then delete it" in ended.error
        assert await names(one) == {"kept:1b"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ChoreKind.CREATE, {"model": "KEPT:1b", "from": "small:1b"}),
        (ChoreKind.COPY, {"source": "small:1b", "destination": "registry.ollama.ai/library/kept:1b"}),
    ],
)
async def test_a_model_that_the_settings_name_is_not_replaced_but_may_be_copied_and_pulled(
    asker: Asker, kind: ChoreKind, body: dict[str, str]
) -> None:
    one = asker.world.played(model("kept:1b"), model("small:1b"), LATER, **QUICK)
    settings = {"tiers": {"small": {"model": "kept:1b"}}, "routes": {"auto": {"primary": "small"}}}
    async with serving(asker, one, **settings):
        ended = await asker.done(kind, **body)
        assert ended.status == 409
        assert "take it out there, then delete it; what is made or copied needs another name" in ended.error
        assert asker.audited == []
        assert await asker.done(ChoreKind.COPY, source="kept:1b", destination="mine") == Ending()
        assert await asker.done(ChoreKind.PULL, model="kept:1b") == Ending()


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        (ChoreKind.CREATE, {"model": "x", "from": "small:1b", "remote_host": "https://h"}, "remote_host"),
        (ChoreKind.CREATE, {"model": "x", "from": "gpt-oss:120b-cloud"}, "would be served by somebody else"),
        (ChoreKind.PULL, {"model": "gpt-oss:120b-cloud"}, "would be served by somebody else"),
        (ChoreKind.PULL, {"model": "../../etc/passwd"}, "model is no model's name"),
        (ChoreKind.COPY, {"source": "small:1b"}, "destination is no model's name"),
        (ChoreKind.DELETE, {"model": "small:1b", "name": "old:1b"}, "name: that is not passed on"),
        (ChoreKind.BLOB, {"digest": "sha256:../../etc/passwd"}, "that is no blob"),
    ],
)
async def test_what_no_gateway_passes_on_is_not_done_whoever_asked_for_it(
    asker: Asker, kind: ChoreKind, body: dict[str, str], why: str
) -> None:
    one = asker.world.played(model("small:1b"))
    async with serving(asker, one):
        ended = await asker.done(kind, **body)
        assert ended.status == 400
        assert why in ended.error
        assert await names(one) == {"small:1b"}
        assert asker.audited == []


async def test_what_is_written_to_redis_by_a_stranger_is_done_on_no_server(asker: Asker) -> None:
    one = asker.world.played(model("small:1b"), model("old:1b"))
    async with serving(asker, one):
        stranger = Chores(asker.world.connection, 32 * b"s")
        await stranger.ask(Chore(ChoreKind.DELETE, {"model": "old:1b"}, "tester"))
        await asker.done(ChoreKind.COPY, source="small:1b", destination="mine")
        assert await names(one) == {"small:1b", "old:1b", "mine:latest"}
        assert asker.audited == [("tester", "copy", "small:1b to mine")]


async def test_the_controller_says_what_it_does_and_does_nothing_that_it_cannot_account_for(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Asker, chore: Chore) -> None:
        raise HostError(f"the audit cannot be written ({chore.kind})")

    one = asker.world.played(model("small:1b"), model("old:1b"))
    async with serving(asker, one):
        assert await asker.done(ChoreKind.CREATE, model="brief", **{"from": "small:1b"}) == Ending()
        assert asker.audited == [("tester", "create", "brief from small:1b")]
    monkeypatch.setattr(Asker, "_audit", full)
    await asker.close()
    await asker.lead()
    ended = await asker.done(ChoreKind.DELETE, model="old:1b")
    assert ended == Ending(500, "the audit cannot be written (delete)")
    assert "old:1b" in await names(one)


async def test_a_model_is_made_of_another_one_on_every_server(asker: Asker) -> None:
    one, two = (asker.world.played(model("small:1b")) for _ in range(2))
    async with serving(asker, one, two):
        lines, ended = await asker.told(await asker.ask(ChoreKind.CREATE, model="brief", **{"from": "small:1b"}))
        assert ended == Ending()
        assert lines[-1] == {"status": "writing manifest"}
        assert "brief:latest" in await names(one) & await names(two)
        refused = await asker.done(ChoreKind.CREATE, model="brief")
        assert refused == Ending(400, "neither 'from' or 'files' was specified")


async def test_one_server_that_has_a_model_pushes_it(asker: Asker) -> None:
    one, two = asker.world.played(model("small:1b")), asker.world.played(model("me/big:8b"))
    async with serving(asker, one, two):
        lines, ended = await asker.told(await asker.ask(ChoreKind.PUSH, model="me/big:8b"))
        assert ended == Ending()
        assert [each["status"] for each in lines][-1] == "pushing manifest"
        assert await asker.done(ChoreKind.PUSH, model="nobody") == Ending(404, "model 'nobody' not found")


async def test_it_is_told_which_servers_lack_a_blob(asker: Asker) -> None:
    one, two = (asker.world.played(model("small:1b")) for _ in range(2))
    async with serving(asker, one, two):
        content = b"weights"
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        async with aiohttp.ClientSession() as http, http.post(f"{one.url}/api/blobs/{digest}", data=content) as reply:
            assert reply.status == 201
        ended = await asker.done(ChoreKind.BLOB, digest=digest)
        assert ended.told == {"missing": [["server-1", "127.0.0.1", two.port]]}
        two.kill()
        await asker.world.until(lambda: asker.world.given(two).state == "down", "it is known to be down")
        assert "server-1: no connection" in (await asker.done(ChoreKind.BLOB, digest=digest)).error


async def test_a_server_that_hangs_fails_alone(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.nodes.model_api._FILES_S", 1.0)
    one, two = (asker.world.played(model("old:1b")) for _ in range(2))
    async with serving(asker, one, two):
        two.signal(signal.SIGSTOP)
        ended = await asker.done(ChoreKind.DELETE, model="old:1b")
        two.signal(signal.SIGCONT)
        assert "failed on 1 of 2 nodes: server-1: /api/delete: nothing was heard of it any more" in ended.error
        assert await names(one) == set()
