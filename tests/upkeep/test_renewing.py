"""What a supervisor does about two requests at once: one is done, the other is told to wait."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import cast

import pytest

from orchestrator.app.renewing import Renewing
from orchestrator.app.workers import Workers
from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper_units import Request


class Rolled:
    """Workers that are succeeded once somebody lets them."""

    def __init__(self) -> None:
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()

    async def roll(self, *_: object) -> None:
        self.begun.set()
        await self.may_end.wait()


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A program that starts, whatever it is asked for."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n")
    program.chmod(0o755)
    return program


async def test_of_two_programs_asked_for_at_once_it_becomes_one_and_the_other_is_refused(slow: Path) -> None:
    stopped: list[str] = []
    renewing = Renewing("build", 0, lambda: stopped.append(renewing.program))
    renewing.began(cast("Workers", Rolled()))
    asked = [renewing.verbs["renew"](Request(verb="renew", program=str(each))) for each in (slow, sys.executable)]
    done = await asyncio.gather(*asked, return_exceptions=True)
    assert stopped == [str(slow)]
    assert done[0] == {}
    assert isinstance(done[1], HostError)
    with pytest.raises(HostError, match="another `ollamactl upgrade` is at work"):  # nor after, in its last moments
        await renewing.verbs["roll"](Request(verb="roll"))


async def test_while_workers_are_succeeded_nothing_else_is_begun_and_then_it_may_be(slow: Path) -> None:
    stop, workers = asyncio.Event(), Rolled()
    renewing = Renewing("build", 0, stop.set)
    renewing.began(cast("Workers", workers))
    rolling = asyncio.create_task(renewing.verbs["roll"](Request(verb="roll")))  # type: ignore[arg-type]
    await workers.begun.wait()
    for verb in ("roll", "renew"):
        with pytest.raises(HostError, match="wait for it"):
            await renewing.verbs[verb](Request(verb=verb, program=str(slow)))
    workers.may_end.set()
    await rolling
    await renewing.verbs["renew"](Request(verb="renew", program=str(slow)))
    assert stop.is_set()
