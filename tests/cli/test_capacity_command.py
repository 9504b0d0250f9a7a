"""`ollamactl capacity` plans for users or a recording, predicted and simulated, in tables, Markdown, JSON and plots."""

from __future__ import annotations

import builtins
import gzip
import json
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import main


def run(*arguments: str, simulated: bool = False):
    """Without a simulation, unless that is what a test is about."""
    more = ["--minutes", "3"] if simulated else ["--no-simulation"]
    return CliRunner().invoke(main, ["capacity", "--cards", "RTX 4090, L4", *more, *arguments])


def test_the_cheapest_plan_is_first_and_says_that_it_is_predicted():
    told = run("--users", "100")
    assert told.exit_code == 0
    assert "Plans that keep the goals, cheapest first" in told.output
    assert "RTX 4090" in told.output
    assert "not measured and not simulated" in told.output
    assert "predicted / simulated" not in told.output


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


@pytest.mark.parametrize(("name", "content"), [("calls.csv", b"t_s\xff" * 999), ("calls.csv.gz", b"\x1f\x8b\x08\x00")])
def test_a_file_that_is_no_text_is_named_without_its_content(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    told = run("--trace", str(tmp_path / name))
    assert told.exit_code == 1
    assert f"{name}: not a recording" in told.output
    assert len(told.output) < 400


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


# --- simulated -------------------------------------------------------------------------------------------------------


def test_the_plan_is_shown_predicted_and_simulated():
    told = run("--users", "60", "--markdown", simulated=True)
    assert told.exit_code == 0
    assert "simulated: 3 minutes, longer for few users, seed 1; further apart than 10% is marked *" in told.output
    assert "| Plan | p95 by tier | simulated |" in told.output
    assert "### The cheapest: " in told.output
    assert "| Tier | Share | p50 | p95 |" in told.output
    assert "Predicted and simulated" in told.output


def test_json_has_what_was_simulated_beside_each_plan():
    found = json.loads(run("--users", "60", "--seed", "4", "--json", simulated=True).output)
    assert found["simulation"] == {
        "seed": 4,
        "seconds": 180,
        "warm_s": 18,
        "margin": 0.1,
        "recorded_calls": None,
    }
    first = found["plans"][0]
    assert {each["tier"] for each in first["simulated"]["tiers"]} == {each["tier"] for each in first["tiers"]}
    assert first["simulated"]["asked"] >= first["simulated"]["answered"]


def test_the_owners_plans_say_where_the_simulation_differs():
    told = run("--documents", "--markdown", simulated=True)
    assert "| carried | carried, simulated |" in told.output
    assert "- cloud: 96 users: full p95: predicted " in told.output
    assert "6 instances share a card" in told.output


def test_a_recording_without_a_number_of_users_is_played_at_its_own_times(tmp_path):
    path = tmp_path / "calls.csv"
    rows = "".join(f"{index * 2.0},200,{100 + index % 3}\n" for index in range(30))
    path.write_text(f"t_s,input_tokens,output_tokens\n{rows}")
    told = run("--trace", str(path), simulated=True)
    assert "simulated: the 30 recorded calls at their times" in told.output
    assert "simulated: 3 minutes" in run("--trace", str(path), "--users", "9", simulated=True).output


def test_questions_are_mixed_as_the_router_says(tmp_path):
    path = tmp_path / "questions.txt"
    hard = (
        "Prove that there are infinitely many primes, then write a Rust program that lists them, and analyse its cost."
    )
    path.write_text(f"Merhaba\nMerhaba\n{hard}\nWhat is your name?\n")
    mix = json.loads(run("--users", "20", "--questions", str(path), "--json").output)["asked"]["mix"]
    assert mix == {"cache": 0.25, "small": 0.5, "full": 0.25}
    path.write_text("\n")
    assert "questions.txt: not a file of questions" in run("--questions", str(path)).output


# --- plots -----------------------------------------------------------------------------------------------------------


def test_a_plot_as_svg_has_lines_dots_and_goals(tmp_path):
    path = tmp_path / "plan.svg"
    assert run("--users", "60", "--slots", "4", "--plot", str(path), simulated=True).exit_code == 0
    drawn = ElementTree.parse(path)
    kinds = [each.tag.rpartition("}")[2] for each in drawn.iter()]
    assert kinds.count("circle") > 3
    assert "polyline" in kinds
    assert any("goal of full: 5 s" in (each.text or "") for each in drawn.iter())


def test_a_plot_as_html_stands_alone_and_has_the_numbers(tmp_path):
    path = tmp_path / "plan.html"
    assert run("--users", "60", "--plot", str(path)).exit_code == 0
    page = path.read_text()
    assert "<svg" in page
    assert '<th scope="col">p95 predicted</th>' in page
    assert "<script" not in page
    assert "src=" not in page


def test_a_plot_as_png_is_drawn_by_matplotlib(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    path = tmp_path / "plan.png"
    assert run("--users", "60", "--plot", str(path)).exit_code == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_png_names_the_extra_before_anything_is_worked_out(tmp_path, monkeypatch):
    importing = builtins.__import__

    def missing(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    told = run("--plot", str(tmp_path / "plan.png"))
    assert told.exit_code == 1
    assert "pip install 'ollama-orchestrator[plot]'" in told.output
    assert "Plans that keep" not in told.output


def test_a_plot_of_an_unknown_kind_is_refused():
    told = run("--plot", "plan.bmp")
    assert told.exit_code == 1
    assert "plan.bmp: a plot is .svg, .png, .html" in told.output
