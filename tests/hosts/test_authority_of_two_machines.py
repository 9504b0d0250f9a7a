"""Another authority of a cluster of two machines: both have it before a step is taken, whoever leads and begins it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.app.authority import authorities_of, put_authorities
from orchestrator.app.held_up import held_up
from orchestrator.app.running import redis_of
from orchestrator.core.certificates import Held
from orchestrator.nodes.authorities import Authorities
from orchestrator.nodes.authority import held_in
from orchestrator.settings import ClusterSettings
from tests.hosts.test_two_controllers import Sharing, server, two_machines
from tests.store.playing import Server

__all__ = ("server",)


class OverTls(Sharing):
    """One of two machines that speak TLS to hosts; nothing is deployed there yet."""

    def _settings(self, models: dict[str, Any]) -> ClusterSettings:
        found = super()._settings(models)
        return found.model_copy(update={"deploy": found.deploy.model_copy(update={"tls": True})})

    @property
    def authorities(self) -> Authorities | None:
        return authorities_of(self.paths, self.settings)

    @property
    def held(self) -> Held | None:
        """What its gateways ask hosts with."""
        file = self.paths.client_certificate
        return held_in(file.read_text()) if file.exists() else None

    def waits_for(self, other: OverTls) -> bool:
        """Whether its controller said last that it does."""
        said = [each for each in self.said.splitlines() if "app.rotating" in each]
        return bool(said) and f"waits for {os.uname().nodename}:{other.paths.root}" in said[-1]

    async def held_up(self) -> str:
        """What this machine's status and doctor find in Redis of a change that waits."""
        async with redis_of(self.paths, self.settings) as connection:
            return await held_up(connection)

    def tell(self, signal_number: int = signal.SIGHUP) -> None:
        pid = self.controller_pid()
        assert pid is not None
        os.kill(pid, signal_number)


@pytest.fixture
async def both(hosts, server: Server) -> AsyncIterator[tuple[OverTls, OverTls]]:
    async with two_machines(hosts, server, OverTls) as both:
        yield both


async def test_a_step_waits_for_the_other_machine_which_may_have_begun_it(both: tuple[OverTls, OverTls]):
    one, two = both
    put_authorities(one.paths, one.settings, old := Authorities.made(int(time.time())))
    await one.begin(small={"replicas": 1})
    await one.until(one.leads, "the first leads")
    await two.begin(small={"replicas": 1})
    await two.until(lambda: two.held == old.held, "the second has what the first was given")

    put_authorities(two.paths, two.settings, begun := old.begun(int(time.time())))
    two.tell()
    await one.until(lambda: one.held == begun.held, "what the second began is the first's")
    await two.until(lambda: two.held == begun.held, "both trust both")
    two.tell(signal.SIGSTOP)
    try:
        await one.until(lambda: one.waits_for(two), "it is waited for")
        assert f"{two.paths.root} (its controller has not said" in await two.held_up()
        assert one.authorities is not None
        assert not one.authorities.is_left
        assert two.held == begun.held
    finally:
        two.tell(signal.SIGCONT)
    for each in both:
        await each.until(lambda each=each: each.authorities.is_settled, "it is over")
        assert each.held is not None
        assert each.held == each.authorities.held
        assert each.held.trusts.isdisjoint(old.held.trusts)
    assert await two.held_up() == ""
