"""What a controller that leads does about the certificates of hosts: who lacks something is mended, or said once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.app import certificates
from orchestrator.app.authority import put_authorities
from orchestrator.app.certificates import Certificates
from orchestrator.app.held_up import HeldUp
from orchestrator.app.paths import StatePaths
from orchestrator.app.rotating import LOOK_EVERY_S
from orchestrator.app.speaking_tls import silent_hosts
from orchestrator.core.errors import HostError, StoreError
from orchestrator.core.model import InstanceState, NodeName, Snapshot
from orchestrator.nodes.authorities import Authorities
from orchestrator.nodes.onhost.tls import UNREADABLE
from orchestrator.settings import ClusterSettings
from tests.gateway.played import pool_of
from tests.tls_front import certificate_in, with_a_doubled_extension, with_an_odd_version
from tests.waiting import until

NOW = int(time.time())
OLD = Authorities.made(NOW)
NEW = OLD.begun(NOW).followed().followed().followed()
SETTINGS = ClusterSettings.model_validate(
    {"nodes": [{"name": "gpu-1", "address": "10.0.0.1"}], "deploy": {"tls": True}}
)
SHOWN = certificate_in(NEW.signs.for_host(["gpu-1", "10.0.0.1"], NOW))


class Leads:
    """`unknown`: how often it is not known yet; `asked`: how often anybody wanted to know."""

    term = 1

    def __init__(self) -> None:
        self.unknown = self.asked = 0

    def check(self) -> None:
        self.asked += 1
        if self.asked <= self.unknown:
            raise StoreError("whether this controller still leads is not known")


class Host:
    """The far side: what it shows, or why it cannot be reached, and what it was given."""

    def __init__(self) -> None:
        self.shown = ""
        self.why = ""
        self.looks = 0
        self.given: list[tuple[str, str | None]] = []

    @asynccontextmanager
    async def connected(self, *_: object) -> AsyncIterator[Any]:
        if self.why:
            raise HostError(self.why)
        yield SimpleNamespace(node="gpu-1")

    async def shows(self, _: object) -> str:
        self.looks += 1
        return self.shown

    async def is_given(self, _: object, owner: object, authority: str, pem: str | None) -> None:
        self.given.append((authority, pem))
        self.shown = (certificate_in(pem) if pem else SHOWN) + authority


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    played = Host()
    monkeypatch.setattr(certificates, "connected", played.connected)
    monkeypatch.setattr(certificates, "shown_certificate", played.shows)
    monkeypatch.setattr(certificates, "renew_certificate", played.is_given)
    return played


class Silent:
    """Hosts whose instances do not answer, and how often that was asked."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.asked = 0

    def __call__(self) -> frozenset[str]:
        self.asked += 1
        return frozenset(self.names)


@pytest.fixture
def silent() -> Silent:
    return Silent()


@pytest.fixture
def leads() -> Leads:
    return Leads()


@pytest.fixture
def controller(tmp_path: Path, silent: Silent, leads: Leads) -> Certificates:
    """One that leads, with the new authority alone."""
    paths = StatePaths(tmp_path)
    put_authorities(paths, SETTINGS, NEW)

    async def met() -> tuple[()]:
        return ()

    async def tell(line: str | None) -> None:
        pass

    return Certificates(paths, lambda: SETTINGS, lambda: True, leads, met, HeldUp(tell, leads.check), silent)


@asynccontextmanager
async def running(controller: Certificates) -> AsyncIterator[None]:
    """It looks by itself until the end."""
    task = asyncio.create_task(controller.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


@pytest.mark.parametrize("trusts", [OLD.trusted, "", NEW.trusted + OLD.trusted], ids=["the old one", "nobody", "both"])
async def test_a_host_that_trusts_others_than_those_of_now_is_told_whom_to_trust(
    host: Host, controller: Certificates, trusts: str
) -> None:
    host.shown = SHOWN + trusts
    await controller.look()
    assert host.given == [(NEW.trusted, None)]
    await controller.look()
    assert len(host.given) == 1, "then it has all"


async def test_a_host_that_knows_only_the_authority_before_gets_all_of_the_one_of_now(
    host: Host, controller: Certificates
) -> None:
    host.shown = certificate_in(OLD.signs.for_host(["gpu-1", "10.0.0.1"], NOW)) + OLD.trusted
    await controller.look()
    ((authority, pem),) = host.given
    assert authority == NEW.trusted
    assert pem


@pytest.mark.parametrize("spoil", [with_an_odd_version, with_a_doubled_extension])
async def test_a_host_whose_certificate_cannot_be_read_gets_another(
    host: Host, controller: Certificates, spoil: Callable[[str], str]
) -> None:
    host.shown = spoil(SHOWN) + NEW.trusted
    await controller.look()
    ((_, pem),) = host.given
    assert pem


async def test_a_host_that_nothing_was_deployed_to_gets_nothing(host: Host, controller: Certificates) -> None:
    await controller.look()
    assert host.given == []


async def test_trouble_with_a_host_is_said_once_and_again_when_it_is_another_or_comes_back(
    host: Host, controller: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    host.shown = SHOWN + NEW.trusted
    refused, silent = "gpu-1: connect: refused", "gpu-1: connect: no answer"
    for host.why in (silent, silent, silent, refused, refused, "", refused):
        await controller.look()
    said = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert said == [silent, refused, refused]


async def test_a_look_that_failed_as_a_whole_is_made_again_soon_and_its_reason_said_once(
    host: Host, controller: Certificates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whys, is_whole = iter([StoreError("away"), StoreError("away"), HostError("gone")]), asyncio.Event()

    async def look() -> float:
        if why := next(whys, None):
            raise why
        is_whole.set()
        return LOOK_EVERY_S

    monkeypatch.setattr(certificates, "AFTER_TROUBLE_S", 0.01)
    monkeypatch.setattr(certificates, "AFTER_STORE_S", 0.01)
    monkeypatch.setattr(controller, "look", look)
    async with running(controller):
        await until(is_whole.is_set, "a look went well")
    assert [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR] == ["away", "gone"]


async def test_while_it_is_not_known_who_leads_no_host_is_asked_and_once_it_is_all_are_looked_at(
    host: Host, controller: Certificates, leads: Leads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine that is so for a moment: a step of another authority does not wait half a minute for it."""
    monkeypatch.setattr(certificates, "AFTER_TROUBLE_S", LOOK_EVERY_S)
    monkeypatch.setattr(certificates, "AFTER_STORE_S", 0.01)
    leads.unknown, host.shown = 3, SHOWN + OLD.trusted
    asked: list[int] = []
    shows = host.shows

    async def counted(at: object) -> str:
        asked.append(leads.asked)
        return await shows(at)

    monkeypatch.setattr(certificates, "shown_certificate", counted)
    async with running(controller):
        await until(lambda: host.given, "the host has what it is to have")
    assert asked[0] == leads.unknown + 1


async def test_a_host_whose_instances_do_not_answer_is_looked_at_soon_and_others_are_not(
    host: Host, controller: Certificates, silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "SILENT_EVERY_S", 0.01)
    host.shown = SHOWN + NEW.trusted
    async with running(controller):
        await until(lambda: host.looks, "it has looked at all")
        host.shown = UNREADABLE + NEW.trusted
        for silent.names in (set(), {"gpu-2"}):
            asked = silent.asked
            await until(lambda asked=asked: silent.asked > asked + 2, "it was asked after the last look, too")
            assert host.looks == 1, "as long as it answers the next look at all will do"
        silent.names = {"gpu-1"}
        await until(lambda: host.given, "it is mended")
    ((authority, pem),) = host.given
    assert authority == NEW.trusted
    assert pem


@pytest.mark.parametrize(
    ("state", "tls_name", "is_given", "is_silent"),
    [
        (InstanceState.DOWN, "gpu-1", False, True),
        (InstanceState.STARTING, "gpu-1", False, True),
        (InstanceState.SERVING, "gpu-1", False, False),
        (InstanceState.LOADING, "gpu-1", False, False),
        (InstanceState.DOWN, "", False, False),
        (InstanceState.DOWN, "gpu-1", True, False),
    ],
)
def test_of_hosts_those_are_silent_whose_instances_behind_tls_do_not_answer(
    state: InstanceState, tls_name: str, is_given: bool, is_silent: bool
) -> None:
    pool = pool_of("m", [1])
    instance = replace(pool.instances[0], node=NodeName("gpu-1"), state=state, tls_name=tls_name, is_given=is_given)
    snapshot = Snapshot(1, 0, (replace(pool, instances=(instance,)),))
    assert silent_hosts(snapshot) == (frozenset({"gpu-1"}) if is_silent else frozenset())
