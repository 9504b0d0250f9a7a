"""`ollamactl route` says how hard a question is and where it would go, and scores files of questions."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import main
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import ask
from tests.gateway.played import played, pool_of
from tests.gateway.stand_in import standing_in

CLUSTER = """
models:
  llama3.2:3b: {}
  llama3.1:8b: {}
tiers:
  small: {model: "llama3.2:3b", backup: full}
  full: {model: "llama3.1:8b", backup: small}
routes:
  auto: {}
  careful: {chat_full_from: 1, task_full_from: 1}
"""


ROUTER = """
models:
  slm: {}
  big: {}
providers:
  groq: {key: env:GROQ_KEY, plan: free}
tiers:
  tongue: {model: slm, backup: worker, limits: {concurrent: 1, tpd: 300000}}
  worker: {model: big}
  deep: {provider: groq, model: openai/gpt-oss-120b, backup: worker}
routes:
  roles: {chat: tongue, task: worker, deep: deep, deep_from: {code: 5}}
  turkish: {match: {model: "gpt-*", language: tr}, primary: worker}
  support:
    match: {header: {X-Team: "support*"}, key: sup*, tools: true}
    primary: tongue
    escalate_to: deep
    escalate_if: [{confidence_below: 0.85}, {tools_needed: "> 1"}]
"""


@pytest.fixture(autouse=True)
def nobody_runs(tmp_path, monkeypatch):
    """No cluster of this machine is asked."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("GROQ_KEY", "gsk-an-entirely-made-up-key")


def run(*arguments: str, given: str = ""):
    return CliRunner().invoke(main, ["route", *arguments], input=given)


def lines_of(told) -> list[str]:
    assert told.exit_code == 0, told.output
    return [" ".join(line.split()) for line in told.output.splitlines()]


@pytest.fixture
def cluster(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER)
    return str(path)


@pytest.fixture
def router(tmp_path):
    path = tmp_path / "router.yaml"
    path.write_text(ROUTER)
    return str(path)


def test_a_question_is_explained_with_its_tier_rule_and_backup_on_every_route(cluster):
    told = run("explain", "--config", cluster, "DNA nedir?")
    assert told.exit_code == 0
    lines = [" ".join(line.split()) for line in told.output.splitlines()]
    assert "difficulty 1 of 10 (1.00)" in lines
    assert "type CHAT, question" in lines
    assert "language tr" in lines
    assert "route auto → small (llama3.2:3b)" in lines
    assert "rule CHAT of difficulty 1, below 8: small" in lines
    assert "backup full (llama3.1:8b)" in lines
    assert "route careful → full (llama3.1:8b)" in lines


def test_an_explanation_as_json_has_the_reasons_and_only_the_route_asked_for(cluster):
    told = run("explain", "--config", cluster, "--json", "--route", "careful", "Write a Python function")
    found = json.loads(told.output)
    assert (found["kind"], found["work"], found["language"]) == ("TASK", "code", "en")
    assert "asks for code (+3)" in found["reasons"]
    assert [*found["routes"]] == ["careful"]
    assert [each["tier"] for each in found["routes"]["careful"]["tiers"]] == ["full", "small"]


def test_a_route_that_is_not_there_is_a_wrong_command_line_and_those_there_are_named(cluster):
    told = run("explain", "--config", cluster, "--route", "other", "hi")
    assert told.exit_code == 2
    assert "auto, careful" in told.output


def test_the_route_that_takes_a_call_is_told_and_what_fails_of_the_others(router):
    lines = lines_of(run("explain", "--config", router, "--model", "gpt-4o", "Türkiye'nin başkenti neresi?"))
    assert "call asks for gpt-4o → turkish" in lines
    assert "match turkish (model, language): holds" in lines
    assert "match support (key, header, tools): not its model" in lines


def test_a_question_is_explained_where_a_providers_key_is_not_set_and_that_is_said(router, monkeypatch):
    monkeypatch.delenv("GROQ_KEY")
    told = run("explain", "--config", router, "--route", "roles", "--json", "Write a Python function")
    assert told.exit_code == 0, told.output
    assert "deep" in [each["tier"] for each in json.loads(told.stdout)["routes"]["roles"]["tiers"]]
    assert "providers.groq.key: the environment variable GROQ_KEY is not set here" in told.stderr


def test_a_call_may_be_given_a_key_a_header_and_tools(router):
    asked = ("explain", "--config", router, "--header", "X-Team: Support EU", "--caller", "sup-1", "what is it")
    assert "call asks for roles → support" in lines_of(run(*asked, "--tools"))
    assert "match support (key, header, tools): not its tools" in lines_of(run(*asked))
    told = run("explain", "--config", router, "--header", "X-Team", "what is it")
    assert (told.exit_code, "write `Name: value`" in told.output) == (2, True)


def test_limits_backups_and_the_tier_above_are_told_and_who_may_not_have_the_call(router):
    asked = "Write a Python function that mails ali@example.com his IBAN TR330006100519786457841326"
    lines = lines_of(run("explain", "--config", router, asked))
    assert "privacy local: e-mail address, IBAN" in lines or any(line.startswith("privacy local") for line in lines)
    assert "route roles → deep (groq/openai/gpt-oss-120b)" in lines
    assert "backup worker (big)" in lines
    assert "answers worker" in lines
    outside = [line for line in lines if line.startswith("target deep: is outside")]
    assert outside
    assert outside[0].endswith("takes public calls at most, and may not have this one")
    assert "target tongue: 300,000 tokens a day; 1 at once" in lines
    assert (
        "above deep (groq/openai/gpt-oss-120b), then worker (big) if confidence_below 0.85, tools_needed > 1" in lines
    )


def test_as_json_it_has_matches_chains_limits_and_doubt(router):
    found = json.loads(run("explain", "--config", router, "--json", "Zwyrp qlox the frindle grobbing").output)
    assert found["taken_by"] == "roles"
    assert found["matches"][0] == {"route": "turkish", "says": ["model", "language"], "fails_on": "model"}
    roles = found["routes"]["roles"]
    assert [each["tier"] for each in roles["tiers"]] == ["worker"]
    assert found["routes"]["support"]["escalates_if"] == ["confidence_below 0.85", "tools_needed > 1"]
    (limits,) = found["routes"]["support"]["tiers"][0]["limits"]
    assert limits["allowed"] == {"tpd": 300000, "concurrent": 1}


def test_a_question_of_which_nothing_is_known_says_who_answers_once_the_quota_is_used(cluster):
    lines = lines_of(run("explain", "--config", cluster, "--route", "auto", "Zwyrp qlox the frindle grobbing plof"))
    assert "route auto → full (llama3.1:8b)" in lines
    assert "doubt small answers, once its API key has sent 60 such questions up in a minute" in lines


async def test_where_a_cluster_runs_its_use_and_who_is_left_alone_are_told(tmp_path):
    tiers = {
        "small": {"model": "slm", "backup": "full", "limits": {"rpd": 3}, "breaker": {"at_least": 1, "open_s": 300}},
        "full": {"model": "big", "limits": {"rpm": 9}},
    }
    settings = {"models": {"slm": {}, "big": {}}, "tiers": tiers, "routes": {"auto": {}}, "cache": {"enabled": False}}
    path = tmp_path / "live.yaml"
    path.write_text(json.dumps(settings))
    async with standing_in(2) as instances:
        pools = [pool_of(name, [each.port]) for name, each in zip(("slm", "big"), instances, strict=True)]
        async with played(tmp_path, ClusterSettings.model_validate(settings), pools) as world:
            await ask(world.url, "/api/chat", "hello", model="auto", stream=False)
            instances[0].does = "own-500"
            await ask(world.url, "/api/chat", "hello", model="auto", stream=False)
            endpoint = world.url.removeprefix("http://")
            told = await asyncio.to_thread(run, "explain", "--config", str(path), "--endpoint", endpoint, "hello")
    lines = lines_of(told)
    assert any(re.fullmatch(r"target small: fails or is slow, left alone for (299|300) s", line) for line in lines)
    assert "target small: 1 of 3 requests a day" in lines
    assert "target full: 1 of 9 requests a minute" in lines


def test_each_question_of_a_file_gets_a_score_and_the_harder_one_the_higher(tmp_path):
    questions, scores = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked = [{"id": "easy", "prompt": "merhaba"}, {"id": "hard", "prompt": "Prove Fermat's last theorem step by step"}]
    questions.write_text("\n".join(map(json.dumps, asked)) + "\n\n")
    assert run("score", "--in", str(questions), "--out", str(scores)).exit_code == 0
    told = {each["id"]: each["score"] for each in map(json.loads, scores.read_text().splitlines())}
    assert told["hard"] > told["easy"]


def test_scores_go_through_a_pipe_with_nothing_else_in_it():
    told = run("score", "--in", "-", "--out", "-", given='{"id": 1, "prompt": "hi"}\n')
    assert [json.loads(line)["id"] for line in told.output.splitlines()] == [1]


def test_after_the_answer_a_wrong_sum_scores_higher_than_a_right_one(tmp_path):
    prompt = "Ali has 3 boxes of 4 apples each. How many apples has he?"
    lines = [
        json.dumps({"id": each, "prompt": prompt, "weak_answer": f"3 * 4 = {each}\n#### {each}"}) for each in (12, 13)
    ]
    told = run("score", "--in", "-", "--out", "-", "--after-answer", given="\n".join(lines))
    right, wrong = (json.loads(line)["score"] for line in told.output.splitlines())
    assert wrong > right


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "-:2: is not JSON"),
        ('{"id": 1}', "-:2: "),
        ("[]", "-:2: "),
        ('{"id": 1, "prompt": "x"}', "-:2: has no 'weak_answer'"),
    ],
)
def test_a_line_that_cannot_be_scored_is_named_and_nothing_is_written(tmp_path, line, why):
    scores = tmp_path / "out.jsonl"
    good = '{"id": 0, "prompt": "x", "weak_answer": "y"}'
    told = run("score", "--in", "-", "--out", str(scores), "--after-answer", given=f"{good}\n{line}\n")
    assert told.exit_code == 1
    assert why in told.stderr
    assert not scores.exists()


def test_a_file_that_is_not_there_is_an_error_without_a_traceback(tmp_path):
    told = run("score", "--in", str(tmp_path / "none"), "--out", "-")
    assert told.exit_code == 1
    assert "No such file" in told.stderr
