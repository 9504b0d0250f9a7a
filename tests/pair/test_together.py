"""Which machines may share a Redis: not those whose instances no other machine reaches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app.crewing import member_of
from orchestrator.app.machines import check_together, machines
from orchestrator.app.paths import StatePaths
from orchestrator.core.errors import HostError
from orchestrator.settings import ClusterSettings
from orchestrator.store.cluster import lead
from orchestrator.store.members import meet
from tests.store.playing import Connect, Server

HOST = {"name": "gpu-1", "address": "10.0.0.21", "user": "ops"}
GIVEN: dict[str, Any] = {"instances": [{"url": "http://10.0.0.5:11434"}]}
HOSTS: dict[str, Any] = {"nodes": [HOST]}
LOCAL: dict[str, Any] = {"nodes": [{"name": "here"}]}
BOTH: dict[str, Any] = {"nodes": [HOST, {"name": "here"}]}


class Place:
    def __init__(self, root: Path, redis: Server, settings: dict[str, Any]) -> None:
        root.mkdir()
        self.paths = StatePaths(root)
        self.settings = ClusterSettings.model_validate({"redis": redis.url, **settings})
        self.member = member_of(self.paths, self.settings, 2)


@pytest.mark.parametrize("settings", [GIVEN, HOSTS])
async def test_machines_whose_instances_all_reach_share_a_redis(
    redis: Server, connect: Connect, tmp_path: Path, settings: dict[str, Any]
) -> None:
    one, two = (Place(tmp_path / name, redis, settings) for name in ("one", "two"))
    await meet(await connect(redis), "gateways", one.member)
    await check_together(two.paths, two.settings)


@pytest.mark.parametrize(
    ("first", "second", "whose"),
    [(HOSTS, LOCAL, "this machine's"), (LOCAL, HOSTS, "its"), (BOTH, HOSTS, "its"), (GIVEN, BOTH, "this machine's")],
)
async def test_a_machine_whose_nodes_are_its_own_is_refused_beside_another_with_the_way_out(
    redis: Server, connect: Connect, tmp_path: Path, first: dict[str, Any], second: dict[str, Any], whose: str
) -> None:
    one, two = Place(tmp_path / "one", redis, first), Place(tmp_path / "two", redis, second)
    await meet(await connect(redis), "gateways", one.member)
    with pytest.raises(HostError, match=f"{one.paths.root} works .* {whose} nodes .* give each machine a Redis"):
        await check_together(two.paths, two.settings)
    await check_together(one.paths, one.settings)


async def test_a_redis_of_its_own_or_none_yet_keeps_nobody_from_starting(redis: Server, tmp_path: Path) -> None:
    place = Place(tmp_path / "one", redis, LOCAL)
    await check_together(place.paths, place.settings)
    await check_together(place.paths, place.settings.model_copy(update={"redis": "embedded"}))


async def test_a_controller_without_gateways_and_gateways_without_a_controller_are_told(
    redis: Server, connect: Connect, tmp_path: Path
) -> None:
    connection = await connect(redis)
    one, two = (Place(tmp_path / name, redis, HOSTS) for name in ("one", "two"))
    assert await machines(connection) == []
    await meet(connection, "gateways", one.member)
    await meet(connection, "controller", two.member)
    await lead(connection, two.member.place, 600)
    told = [(each["name"], each["gateways"], each["controller"]) for each in await machines(connection)]
    assert told == [(one.member.name, 2, "away"), (two.member.name, 0, "leads")]


async def test_a_machine_with_other_settings_and_one_that_would_not_lead_are_told_of(
    redis: Server, connect: Connect, tmp_path: Path
) -> None:
    connection = await connect(redis)
    one, two, three = (
        Place(tmp_path / name, redis, settings) for name, settings in (("one", GIVEN), ("two", HOSTS), ("three", GIVEN))
    )
    await lead(connection, one.member.place, 600)
    for each in (one.member, two.member, replace(three.member, problem="another secret")):
        await meet(connection, "controller", each)
    told = {each["name"]: each["why"] for each in await machines(connection)}
    assert told[one.member.name] == ""
    assert "cluster.yaml says otherwise" in told[two.member.name]
    assert told[three.member.name] == "another secret"
