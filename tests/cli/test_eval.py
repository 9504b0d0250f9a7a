"""`ollamactl eval run` against an endpoint that answers as it is told to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from orchestrator.app.evaluating import Asking, Target, evaluate
from orchestrator.app.targets_by_name import prices_of, target_of
from orchestrator.core.errors import HostError
from orchestrator.core.evaluation.questions import Question, Scorer, SetError, read_set
from orchestrator.core.evaluation.report import Outcome, Price
from orchestrator.settings import parse

QUESTIONS = tuple(Question(f"q{each}", f"What is {each}+1?", Scorer.NUMERIC, (str(each + 1),)) for each in range(4))
SMALL, FULL = Target("small", "m:small"), Target("full", "m:full")


class Endpoint:
    """Right at `m:full`, wrong at `m:small`; refuses from the call `refuses_from` on."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.refuses_from: int | None = None
        self.busy = 0  # so many calls are told to come back in a second
        self.address = ""

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        if self.busy:
            self.busy -= 1
            return web.json_response({"error": "later"}, status=503, headers={"Retry-After": "1"})
        if self.refuses_from is not None and len(self.asked) > self.refuses_from:
            return web.json_response({"error": "no room"}, status=503)
        prompt = body["messages"][-1]["content"]
        if prompt.startswith("You grade"):
            text = json.dumps({"right": "kind" in prompt})
        else:
            number = int(prompt.split()[2].partition("+")[0]) if "+" in prompt else 0
            text = str(number + 1) if body["model"] == "m:full" else "a kind no"
        told = {"message": {"role": "assistant", "content": text}, "prompt_eval_count": 7, "eval_count": 3}
        return web.json_response({**told, "model": body["model"], "done": True}, headers={"X-Tier": "full"})


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    made = Endpoint()
    app = web.Application()
    app.router.add_post("/api/chat", made.chat)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.address = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()


def nothing(_: Outcome, __: int) -> None:
    """Progress is nobody's here."""


async def test_every_question_is_asked_once_of_every_target_last_in_the_queue_and_past_the_cache(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    left: list[int] = []
    told = await evaluate(
        QUESTIONS, (SMALL, FULL), Asking(endpoint.address, "k", tokens=9), tmp_path / "o", lambda _, n: left.append(n)
    )
    assert {(each.question, each.target): each.is_right for each in told} == {
        (question.id, target.name): target is FULL for question in QUESTIONS for target in (SMALL, FULL)
    }
    assert left == list(range(7, -1, -1))
    for body, headers in zip(endpoint.asked, endpoint.headers, strict=True):
        assert body["options"] == {"temperature": 0, "num_predict": 9}
        assert (headers["X-Priority"], headers["Cache-Control"], headers["Authorization"]) == (
            "9",
            "no-store",
            "Bearer k",
        )


async def test_what_broke_off_goes_on_where_it_was_and_asks_nothing_twice(endpoint: Endpoint, tmp_path: Path) -> None:
    out = tmp_path / "eval.jsonl"
    endpoint.refuses_from = 3
    with pytest.raises(HostError, match=r"^q1, asked of full: .* answered 503: no room"):
        await evaluate(QUESTIONS, (SMALL, FULL), Asking(endpoint.address, at_once=1), out, nothing)
    before = {(told["model"], told["question"]) for told in map(json.loads, out.read_text().splitlines())}
    assert len(before) == 3
    with out.open("a") as file:
        file.write('{"question": "q3", "targ')  # killed in the middle of a line
    endpoint.refuses_from, endpoint.asked = None, []
    told = await evaluate(QUESTIONS, (SMALL, FULL), Asking(endpoint.address), out, nothing)
    assert len(told) == 8
    asked = {(body["model"], f"q{body['messages'][-1]['content'].split()[2][0]}") for body in endpoint.asked}
    assert not asked & before
    assert len(out.read_text().splitlines()) == 8


async def test_who_is_told_to_come_back_does_and_the_wait_is_no_time_of_the_targets(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.busy = 1
    (told,) = await evaluate(QUESTIONS[:1], (FULL,), Asking(endpoint.address), tmp_path / "o", nothing)
    assert (told.is_right, len(endpoint.asked)) == (True, 2)
    assert told.seconds < 1


PROVIDED = """
models: {m: }
providers: {mistral: {key: 0123456789abcdef}}
tiers:
  small: {model: m, price: {prompt: 1, completion: 2}}
  full: {model: m, backup: far}
  far: {model: open-mistral-nemo, provider: mistral}
  alone: {model: m}
routes: {home: {primary: alone, privacy: local}, secret: {privacy: local}, auto: }
"""


async def test_a_providers_tier_is_asked_by_name_on_a_route_that_leads_there(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    settings = parse(PROVIDED, "cluster.yaml")
    targets = [target_of(each, settings) for each in ("small", "far", "auto")]
    assert targets == [Target("small", "m"), Target("far", "auto", tier="far"), Target("auto", "auto", is_route=True)]
    assert prices_of(targets, settings) == {"small": Price(1, 2), "far": Price(0.15, 0.15)}
    await evaluate(QUESTIONS[:1], targets, Asking(endpoint.address, at_once=1), tmp_path / "o", nothing)
    asked = [(body["model"], told.get("X-Tier")) for body, told in zip(endpoint.asked, endpoint.headers, strict=True)]
    assert asked == [("m", None), ("auto", "far"), ("auto", None)]


async def test_a_question_that_was_changed_is_asked_anew(endpoint: Endpoint, tmp_path: Path) -> None:
    out = tmp_path / "eval.jsonl"
    await evaluate(QUESTIONS[:1], (FULL,), Asking(endpoint.address), out, nothing)
    other = (Question("q0", "What is 8+1?", Scorer.NUMERIC, ("9",)),)
    (told,) = await evaluate(other, (FULL,), Asking(endpoint.address), out, nothing)
    assert (told.text, len(endpoint.asked)) == ("9", 2)


async def test_a_file_of_something_else_is_not_written_to(endpoint: Endpoint, tmp_path: Path) -> None:
    out = tmp_path / "notes.txt"
    out.write_text("my notes\n")
    with pytest.raises(SetError, match=r"notes\.txt: is not what an earlier run has written; name another --out"):
        await evaluate(QUESTIONS, (FULL,), Asking(endpoint.address), out, nothing)
    assert out.read_text() == "my notes\n"


async def test_a_judge_grades_what_no_rule_can_and_is_asked_for_by_name(endpoint: Endpoint, tmp_path: Path) -> None:
    judged = (Question("j", "Say something kind", Scorer.JUDGE, ("anything nice",)),)
    with pytest.raises(SetError, match="j needs a judge; name one with --judge MODEL"):
        await evaluate(judged, (SMALL,), Asking(endpoint.address), tmp_path / "a", nothing)
    assert not endpoint.asked
    (told,) = await evaluate(judged, (SMALL,), Asking(endpoint.address, judge="m:judge"), tmp_path / "b", nothing)
    assert told.is_right
    assert endpoint.asked[-1]["model"] == "m:judge"


def test_the_sample_that_ships_is_a_set() -> None:
    sample = Path(__file__).parents[2] / "orchestrator" / "data" / "eval-sample.jsonl"
    assert len(read_set(sample.read_text().splitlines(), "sample")) >= 20
