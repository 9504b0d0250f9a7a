"""`ollamactl eval run` against an endpoint that answers as it is told to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from orchestrator.app.evaluating import Asking, Target, evaluate
from orchestrator.app.targets_by_name import prices_of, target_of
from orchestrator.cli.main import main
from orchestrator.core.errors import HostError
from orchestrator.core.evaluation.questions import Question, Scorer, SetError, read_set
from orchestrator.core.evaluation.report import Outcome, Price, Unasked
from orchestrator.settings import parse

QUESTIONS = tuple(Question(f"q{each}", f"What is {each}+1?", Scorer.NUMERIC, (str(each + 1),)) for each in range(4))
SMALL, FULL = Target("small", "m:small"), Target("full", "m:full")


class Endpoint:
    """Right at `m:full`, wrong at `m:small`; refuses from the call `refuses_from` on.

    `auto` answers outside: it is kept from questions that name an IBAN.
    """

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
        if body["model"] == "auto" and "IBAN" in prompt:
            return web.json_response({"error": "this call is local (iban)"}, status=403, headers={"X-Privacy": "local"})
        if body["model"] == "m:locked":
            return web.json_response({"error": "this key may not ask for m:locked"}, status=403)
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


def nothing(_: Outcome | Unasked, __: int) -> None:
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
    began_s = time.monotonic()
    (told,) = await evaluate(QUESTIONS[:1], (FULL,), Asking(endpoint.address), tmp_path / "o", nothing)
    assert (told.is_right, len(endpoint.asked)) == (True, 2)
    assert 0 < told.seconds <= time.monotonic() - began_s - 1


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


PRIVATE = Question("p", "What is 1+1, and whose is this IBAN?", Scorer.NUMERIC, ("2",))


async def test_a_question_that_a_target_may_not_see_is_not_asked_of_it_and_the_rest_go_on(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    heard: list[Outcome | Unasked] = []
    left: list[int] = []

    def hear(outcome: Outcome | Unasked, count: int) -> None:
        heard.append(outcome)
        left.append(count)

    out, far = tmp_path / "o", Target("far", "auto", tier="far")
    told = await evaluate((PRIVATE, *QUESTIONS), (FULL, far), Asking(endpoint.address), out, hear)
    assert len(told) == 9
    assert left == list(range(9, -1, -1))
    (unasked,) = (each for each in heard if isinstance(each, Unasked))
    assert unasked == Unasked("p", "far", "local", "this call is local (iban)")
    assert len(out.read_text().splitlines()) == 9
    endpoint.asked = []
    await evaluate((PRIVATE, *QUESTIONS), (FULL, far), Asking(endpoint.address), out, hear)
    assert [body["model"] for body in endpoint.asked] == ["auto"], "it is tried again: the settings may have changed"


JUDGED = (
    Question("p", "Is this IBAN kind?", Scorer.JUDGE, ("anything",)),
    Question("j", "Say something kind", Scorer.JUDGE, ("anything nice",)),
)


async def test_a_question_that_the_judge_may_not_see_counts_as_not_asked_and_the_rest_go_on(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    heard: list[Outcome | Unasked] = []
    asking = Asking(endpoint.address, at_once=1, judge="auto")
    told = await evaluate(JUDGED, (SMALL,), asking, tmp_path / "o", lambda each, _: heard.append(each))
    assert [(each.question, each.is_right) for each in told] == [("j", True)]
    (unasked,) = (each for each in heard if isinstance(each, Unasked))
    assert unasked == Unasked("p", "small", "local", "this call is local (iban)", judge="auto")
    assert len((tmp_path / "o").read_text().splitlines()) == 1


async def test_a_judge_that_fails_ends_the_run_and_is_named_with_the_question(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    with pytest.raises(HostError, match=r"^j, asked of the judge m:locked: .* answered 403: this key may not ask"):
        await evaluate(JUDGED[1:], (SMALL,), Asking(endpoint.address, judge="m:locked"), tmp_path / "o", nothing)


async def test_the_command_names_the_questions_that_the_judge_may_not_see(endpoint: Endpoint, tmp_path: Path) -> None:
    done = await eval_run(endpoint, tmp_path, JUDGED, "--targets", "small", "--judge", "auto", "--json")
    assert done.exit_code == 0, done.output
    told = "small: 1 of 2 questions not asked, refused by privacy class (local 1; the judge auto may not see p)"
    assert told in done.stderr
    found = json.loads(done.stdout)
    assert (found["unasked"], found["unjudged"]) == ({"small": {"local": 1}}, {"small": {"p": "auto"}})


async def test_a_target_that_the_key_may_not_ask_still_ends_the_run(endpoint: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"asked of locked: .* answered 403: this key may not ask"):
        await evaluate(QUESTIONS, (Target("locked", "m:locked"),), Asking(endpoint.address), tmp_path / "o", nothing)


async def eval_run(endpoint: Endpoint, folder: Path, questions: tuple[Question, ...], *more: str) -> Result:
    lines = [
        {"id": each.id, "prompt": each.prompt, "scorer": each.scorer, "answer": each.answer[0]} for each in questions
    ]
    (folder / "set.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    (folder / "cluster.yaml").write_text(PROVIDED)
    (folder / "cluster.yaml").chmod(0o600)
    given = {"--set": "set.jsonl", "--out": "out.jsonl", "--config": "cluster.yaml", "--state": "state"}
    paths = [word for name, file in given.items() for word in (name, str(folder / file))]
    run = ("eval", "run", *paths, "--endpoint", endpoint.address, *more)
    return await asyncio.to_thread(CliRunner().invoke, main, run)


async def test_the_command_says_what_was_not_asked_in_its_table_its_json_and_its_page(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    page, told = tmp_path / "eval.html", "far: 1 of 5 questions not asked, refused by privacy class (local 1)"
    done = await eval_run(
        endpoint, tmp_path, (PRIVATE, *QUESTIONS), "--targets", "small,far", "--json", "--html", str(page)
    )
    assert done.exit_code == 0, done.output
    assert f"{told}; its figures are of the other 4" in done.stderr
    found = json.loads(done.stdout)
    assert found["unasked"] == {"far": {"local": 1}}
    assert {each["target"]: each["questions"] for each in found["targets"]} == {"small": 5, "far": 4}
    assert found["trade_off"]["questions"] == 4
    assert told in page.read_text()


async def test_the_command_ends_with_1_where_a_target_may_see_nothing_at_all(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    done = await eval_run(endpoint, tmp_path, (PRIVATE,), "--targets", "small,far")
    assert done.exit_code == 1
    assert "far: 1 of 1 questions not asked, refused by privacy class (local 1), and it has no figures" in done.stderr
    assert "small" in done.stdout


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
