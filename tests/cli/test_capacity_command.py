"""`ollamactl capacity` plans for users or a recording, in tables, Markdown and JSON."""

from __future__ import annotations

import gzip
import json

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import main


def run(*arguments: str):
    return CliRunner().invoke(main, ["capacity", "--cards", "RTX 4090, L4", *arguments])


def test_the_cheapest_plan_is_first_and_says_that_it_is_predicted():
    told = run("--users", "100")
    assert told.exit_code == 0
    assert "Plans that keep the goals, cheapest first" in told.output
    assert "RTX 4090" in told.output
    assert "not measured" in told.output


def test_json_has_the_load_the_plans_and_their_tiers():
    found = json.loads(run("--users", "100", "--hit-rate", "0.5", "--json").output)
    assert found["asked"]["mix"] == {"cache": 0.5, "small": pytest.approx(0.375), "full": pytest.approx(0.125)}
    first = found["plans"][0]
    assert first["keeps_goals"]
    assert first["usd_a_user"] == pytest.approx(first["usd_a_month"] / 100)
    assert {each["tier"] for each in first["tiers"]} <= {"cache", "small", "full"}
    assert "documents" not in found


def test_markdown_has_every_part_asked_for():
    told = run("--users", "50", "--slots", "4", "--what-if", "--prices", "--markdown")
    assert told.exit_code == 0
    titles = [line for line in told.output.splitlines() if line.startswith("###")]
    assert [title.split()[1] for title in titles] == ["Plans", "What", "Cards"]
    assert "| weights q8_0 |" in told.output


def test_the_owners_plans_are_judged_with_reasons():
    told = run("--users", "50", "--documents", "--markdown")
    for name in ("MVP", "growth", "pool", "hybrid", "cloud"):
        assert f"| {name}: " in told.output
    assert "- pool: 96 at once promised; " in told.output
    assert "| VRAM of a small instance | 1 GB | 2.9 GiB with 1, 3.4 GiB with 2" in told.output


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "jsonl.gz"])
def test_a_recording_gives_lengths_and_users(tmp_path, kind):
    rows = [(index * 2.0, 200, 100 + index % 3) for index in range(30)]
    text = "t_s,input_tokens,output_tokens\n" + "\n".join(",".join(map(str, row)) for row in rows)
    if kind.startswith("jsonl"):
        names = ("t_s", "input_tokens", "output_tokens")
        text = "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows)
    path = tmp_path / f"calls.{kind}"
    path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    found = json.loads(run("--trace", str(path), "--json").output)
    assert found["recorded"]["rows"] == 30
    assert found["asked"]["users"] == 15
    assert found["asked"]["prompt_tokens"] == 200


def test_a_file_that_is_no_recording_is_named(tmp_path):
    path = tmp_path / "calls.csv"
    path.write_text("when,what\n1,2\n")
    told = run("--trace", str(path))
    assert told.exit_code == 1
    assert "calls.csv" in told.output
    assert "t_s, input_tokens, output_tokens" in told.output


def test_goals_out_of_reach_end_with_an_exit_code_and_a_way_out():
    told = run("--users", "10", "--goal-small", "0.01", "--goal-full", "0.01")
    assert told.exit_code == 1
    assert "No card of the list keeps these goals" in told.output


@pytest.mark.parametrize(("option", "value"), [("--mix", "60/30"), ("--mix", "60/60/60"), ("--cards", "Voodoo 2")])
def test_a_wrong_option_is_a_wrong_command_line(option, value):
    assert run(option, value).exit_code == 2


def test_an_unknown_model_is_said_to_be_unknown():
    told = run("--full", "nobody:9b")
    assert told.exit_code == 1
    assert "'nobody:9b' is not in the catalogue" in told.output
