"""`ollamactl route` says how hard a question is and where it would go, and scores files of questions."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import main

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


def run(*arguments: str, given: str = ""):
    return CliRunner().invoke(main, ["route", *arguments], input=given)


@pytest.fixture
def cluster(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER)
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
