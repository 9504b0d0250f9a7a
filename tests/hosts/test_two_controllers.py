"""Two machines whose controllers keep the same hosts: one leads, and the other goes on where it stopped."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from orchestrator.app import deployments, settings_in_use, wishes
from orchestrator.core.errors import HostError
from orchestrator.nodes.hoststeps import Owner, check_held
from orchestrator.nodes.ssh import connected
from orchestrator.settings import ClusterSettings
from tests.hosts.fleets import OWNER, Fleet, fleet_of, pid_of
from tests.hosts.machines import Network
from tests.hosts.reaching import address
from tests.store.playing import Server, own_server


class Sharing(Fleet):
    """One of several machines on one Redis."""

    def _settings(self, models: dict[str, Any]) -> ClusterSettings:
        return super()._settings(models).model_copy(update={"redis": self._server.url})

    @property
    def number(self) -> int:
        current = deployments.current(self.paths)
        return current.number if current is not None else 0

    @property
    def said(self) -> str:
        file = self.paths.logs / "controller.log"
        return file.read_text() if file.exists() else ""

    def leads(self) -> bool:
        """Whether its controller said last that it does."""
        turns = [each for each in self.said.splitlines() if "leads, with token" in each or "leads no longer" in each]
        return bool(turns) and "leads, with token" in turns[-1]


S = TypeVar("S", bound=Sharing)


@asynccontextmanager
async def two_machines(hosts: Network, server: Server, kind: type[S]) -> AsyncIterator[tuple[S, S]]:
    """The first with hosts whose base is made, the second with nothing but the secret they have in common."""
    with tempfile.TemporaryDirectory(prefix="one-") as first, tempfile.TemporaryDirectory(prefix="two-") as second:
        for each in (first, second):
            (Path(each) / "cache.key").write_bytes(b"k" * settings_in_use.SECRET_BYTES)
        async with (
            fleet_of(hosts, Path(first), server, hosts.machines.values(), kind) as one,
            kind(hosts, Path(second), server) as two,
        ):
            yield one, two


@pytest.fixture
def server() -> Iterator[Server]:
    with own_server() as server:
        yield server


@pytest.fixture
async def pair(hosts, server: Server) -> AsyncIterator[tuple[Sharing, Sharing]]:
    async with two_machines(hosts, server, Sharing) as (one, two):
        two.paths.known_hosts.unlink()
        yield one, two


async def test_the_other_machine_goes_on_with_the_deployment_and_the_paused_one_changes_nothing(
    pair: tuple[Sharing, Sharing],
):
    one, two = pair
    await one.begin(small={"replicas": 2, "hosts": 2})
    await one.deploy()
    await one.until(lambda: one.serve(2, deployment=1), "both")
    await two.begin(small={"replicas": 2, "hosts": 2})
    await two.until(lambda: two.number == 1 and two.paths.known_hosts.exists(), "what the first has deployed")
    drained, other = one.instances
    wishes.drain(two.paths, drained.id)  # by an operator of the one that stands by
    os.kill(two.controller_pid(), signal.SIGHUP)
    await one.until(lambda: one.one(drained.id).slots_offered is None, "its wish is the leader's")
    wishes.undrain(two.paths, drained.id)
    await one.until(lambda: one.serve(2, deployment=1), "and so is that it is taken back")
    pids = {each.id: pid_of(one.net.machines[each.node], each.id) for each in one.instances}
    paused = one.controller_pid()
    os.kill(paused, signal.SIGSTOP)
    try:
        await two.until(two.leads, "the other leads")
        seen = len(two.published)
        await two.until(
            lambda: len(two.published) > seen + 2 and two.serve(2, deployment=1), "and takes over what runs"
        )
        assert pids == {each.id: pid_of(one.net.machines[each.node], each.id) for each in two.instances}
        machine = one.net.machines[other.node]
        served = two.times_served(other.id)
        machine.run("systemctl", "stop", f"ollama@{other.id}")
        await two.until(lambda: two.times_served(other.id) > served, "that it was stopped, and serves again")
        await two.until(lambda: two.serve(2, deployment=1), "it is brought back")
    finally:
        os.kill(paused, signal.SIGCONT)
    await one.until(lambda: not one.leads(), "the woken one knows that it is over")
    assert one.controller_pid() == paused
    assert two.leads()
    told = json.loads(machine.run("cat", f"{OWNER}/owner.json"))
    assert (told["place"], told["number"]) == (settings_in_use.place(one.paths), 1)
    assert told["leader"] > 0
    async with connected(address(one.net, machine), one.keys) as host:
        with pytest.raises(HostError, match="another controller leads"):
            await check_held(host, Owner(told["place"], 1, leader=told["leader"] - 1))
        await check_held(host, Owner(told["place"], 1, leader=told["leader"]))
