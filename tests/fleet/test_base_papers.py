"""The base of a host, step by step: its TLS is of the authority that there is when that step comes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.fleet import hostbase
from orchestrator.fleet.hostbase import BaseWanted, TlsWanted, make_base
from orchestrator.nodes.authorities import Authorities
from orchestrator.nodes.hoststeps import Owner, Said, Step
from orchestrator.nodes.program_file import Program, Ready

NOW = int(time.time())


class Brought(Program):
    """One that is there to be sent."""

    def __init__(self, folder: Path) -> None:
        super().__init__("ollama.tgz", "d" * 64, folder)

    async def ready(self) -> Ready:
        return Ready(Path("ollama.tgz"), self.digest, 1, 2, is_archive=True)


class Host:
    """The far side: it has no program yet. While its bytes are sent, another authority takes the place of the first."""

    node = "gpu-1"

    def __init__(self) -> None:
        self.authorities = Authorities.made(NOW)
        self.did: list[Step] = []

    async def run(self, _: object, steps: Sequence[Step], *, is_dry: bool = False) -> AsyncIterator[Said]:
        for step in steps:
            self.did.append(step)
            yield Said(step.name, True, "", {"has_it": False} if step.do == "look" else {})

    async def send(self, *_: object) -> Said:
        self.did.append(Step("upload", "receive"))
        self.authorities = self.authorities.begun(NOW).followed().followed().followed()
        return Said("upload", True, "")

    async def shows(self, _: object) -> str:
        return ""

    def papers(self, shown: str) -> tuple[str, str]:
        return self.authorities.trusted, self.authorities.signs.for_host([self.node], NOW)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    played = Host()
    monkeypatch.setattr(hostbase, "run", played.run)
    monkeypatch.setattr(hostbase, "send", played.send)
    monkeypatch.setattr(hostbase, "shown_certificate", played.shows)
    return played


def wanted(host: Host, folder: Path) -> BaseWanted:
    return BaseWanted(
        "ollama", "/srv/models", Brought(folder), "[Unit]\n", None, Owner("prod", 1), tls=TlsWanted(host.papers)
    )


async def test_an_authority_that_comes_while_bytes_are_sent_is_the_one_that_the_host_trusts(
    host: Any, tmp_path: Path
) -> None:
    done = await make_base(host, wanted(host, tmp_path))
    *before, tls = host.did
    assert tls.do == "have tls"
    assert tls.asked["authority"] == host.authorities.trusted
    assert before[-1].do == "hold", "a host that is another's by then is left alone"
    assert [each.step for each in done][-4:] == ["program", "firewall", "unit", "tls"]


async def test_what_would_be_changed_has_tls_in_it_and_sends_nothing(host: Any, tmp_path: Path) -> None:
    first = host.authorities
    done = await make_base(host, wanted(host, tmp_path), dry_run=True)
    assert done[-1].step == "tls"
    assert host.did[-1].asked["authority"] == first.trusted
    assert "receive" not in [each.do for each in host.did]


async def test_without_tls_none_of_it_is_asked_for(host: Any, tmp_path: Path) -> None:
    asked = wanted(host, tmp_path)
    await make_base(host, BaseWanted(asked.user, asked.models_dir, None, asked.unit, None, asked.owner))
    assert "have tls" not in [each.do for each in host.did]
    assert host.did[-1].do == "unit"
