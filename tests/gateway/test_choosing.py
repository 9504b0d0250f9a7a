"""Which tier answers first where judging a question fails: the dear one, as often as the caller's key may, and no text
of the question is told to the log."""

from __future__ import annotations

import logging
import time
from typing import Any, cast

import pytest

from orchestrator.core.model import Call, Endpoint
from orchestrator.core.routing import by_role
from orchestrator.gateway import choosing
from orchestrator.gateway.asked import Asked
from orchestrator.gateway.choosing import Choosing
from orchestrator.gateway.identity import ANYBODY
from orchestrator.gateway.live import Route
from orchestrator.gateway.trace import Trace

ROUTE = Route("auto", by_role(("tongue", "worker", "deep"), {"TASK": 8}), "off", unsure_rpm=1)


def asked_with(text: str) -> Asked:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    call = Call(Endpoint.OPENAI_CHAT, "auto", False, body)
    nobody = cast(Any, None)
    return Asked(nobody, nobody, call, 0, "auto", (), "", True, Trace("id", time.perf_counter(), ANYBODY), None)


@pytest.fixture
def judging_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(call: Call) -> None:
        raise ValueError(f"cannot read {call.body['messages']}")

    monkeypatch.setattr(choosing, "difficulty_of", fail)


@pytest.mark.usefixtures("judging_fails")
async def test_a_question_whose_score_fails_goes_all_the_way_up_within_the_quota_and_says_so(caplog):
    left = 1

    async def may_go_up(asked: Asked, route: Route) -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    chooses = Choosing(may_go_up, cast(Any, None))
    first, second = asked_with("my secret question"), asked_with("my secret question")
    with caplog.at_level(logging.ERROR):
        assert (await chooses.decide(first, ROUTE)).tier == "deep"
        assert (await chooses.decide(second, ROUTE)).tier == "worker"
    assert "X-Route-Why: its difficulty could not be judged, so it goes up: deep\r\n" in first.trace.fields()
    assert "X-Route-Why: in doubt, and the 1 a minute of anonymous are used up: worker\r\n" in second.trace.fields()
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_a_reason_goes_out_on_one_line_of_plain_letters_whatever_it_came_from():
    trace = Trace("id", time.perf_counter(), ANYBODY, route="auto", route_reasons=("a\r\nX-Admin: 1 ü",))
    (line,) = [each for each in trace.fields().split("\r\n") if each.startswith("X-Route-Why")]
    assert line == "X-Route-Why: a??X-Admin: 1 ?"
