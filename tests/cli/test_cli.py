"""The command line by itself: what it prints, what it takes, and the exit codes that README promises."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parents[2]
CARDS = "3x RTX 4090, 1x A100-40GB"
COMMANDS = (
    *("up", "gateway", "down", "status", "queue", "ask", "plan", "nodes", "gpus", "config", "faq", "route", "nginx"),
    *("deploy", "rollback", "destroy", "drain", "restart", "logs", "exec", "events"),
    *("cache", "eval", "providers", "limits", "top", "calls", "report", "drift"),
    *("capacity", "doctor", "completion", "version"),
)


def run(*args: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "orchestrator.cli", *args]
    env = {**os.environ, **environment}
    return subprocess.run(argv, cwd=cwd, env=env, text=True, capture_output=True, check=False, timeout=60)


def on_a_terminal(*args: str, cwd: Path, columns: int) -> str:
    """What it prints on a terminal of that width, its colours taken away."""
    master, slave = pty.openpty()
    argv = [sys.executable, "-m", "orchestrator.cli", *args]
    env = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    process = subprocess.Popen(argv, cwd=cwd, env=env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    pieces = []
    try:
        while piece := os.read(master, 65536):
            pieces.append(piece)
    except OSError:
        pass  # Linux says so when the last one at the other end has gone
    os.close(master)
    process.wait()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", b"".join(pieces).decode()).replace("\r\n", "\n")


# --- what it is -------------------------------------------------------------------------------------------------------


def test_version_says_the_projects_version(tmp_path: Path) -> None:
    version = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["version"]
    assert run("version", cwd=tmp_path).stdout == f"ollamactl {version}\n"
    assert json.loads(run("version", "--json", cwd=tmp_path).stdout) == {"version": version}


def test_help_names_every_command_and_exit_code(tmp_path: Path) -> None:
    told = run("--help", cwd=tmp_path)
    assert told.returncode == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", told.stdout, re.MULTILINE), command
    for code in ("0 done", "1 it failed", "2 wrong command line", "3 wrong configuration", "4 nothing answers"):
        assert code in " ".join(told.stdout.split())
    assert "130 interrupted" in " ".join(told.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tmp_path: Path, command: str) -> None:
    told = run(command, "--help", cwd=tmp_path)
    assert told.returncode == 0
    assert told.stdout.startswith("Usage: ")
    assert len(told.stdout.splitlines()[2].strip()) > 10


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_the_shell_can_read(tmp_path: Path, shell: str) -> None:
    told = run("completion", shell, cwd=tmp_path)
    assert told.returncode == 0
    assert "ollamactl" in told.stdout
    assert "_OLLAMACTL_COMPLETE" in told.stdout
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=told.stdout, text=True, capture_output=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_completion_offers_commands_and_options(tmp_path: Path) -> None:
    words = {"_OLLAMACTL_COMPLETE": "bash_complete", "COMP_CWORD": "1"}
    program = Path(sys.executable).with_name("ollamactl")
    if not program.exists():
        pytest.skip("ollamactl is not installed beside this Python")
    argv, env = [str(program)], {**os.environ, **words}
    offered = subprocess.run(
        argv, env={**env, "COMP_WORDS": "ollamactl st"}, text=True, capture_output=True, check=True
    )
    assert offered.stdout.split() == ["plain,status"]


# --- plan -------------------------------------------------------------------------------------------------------------


def test_plan_as_json_says_where_each_instance_would_run_and_why(tmp_path: Path) -> None:
    told = run("plan", "--simulate", CARDS, "--json", cwd=tmp_path)
    assert told.returncode == 0
    plan = json.loads(told.stdout)
    assert [card["name"] for card in plan["nodes"][0]["accelerators"]] == ["RTX 4090"] * 3 + ["A100-40GB"]
    assert {each["pool"] for each in plan["plan"]["placements"]} == {
        "llama3.2:3b-instruct-q4_K_M",
        "llama3.1:8b-instruct-q4_K_M",
    }
    assert all("GiB free on" in each["why"] for each in plan["plan"]["placements"])


@pytest.mark.parametrize("columns", [80, 120])
def test_no_name_in_a_plan_is_cut_off_on_a_terminal(tmp_path: Path, columns: int) -> None:
    plan = json.loads(run("plan", "--simulate", CARDS, "--json", cwd=tmp_path).stdout)["plan"]
    told = on_a_terminal("plan", "--simulate", CARDS, cwd=tmp_path, columns=columns)
    assert all(len(line) <= columns for line in told.splitlines())
    words = told.split()
    for each in plan["placements"]:
        assert each["instance"] in words
        assert each["pool"] in words
        assert f"{each['footprint']['weights'] / 2**30:.1f}" in told
    assert "…" not in told


def test_plan_in_a_pipe_is_plain_lines(tmp_path: Path) -> None:
    told = run("plan", "--simulate", "1x RTX 4090", cwd=tmp_path)
    assert "\x1b" not in told.stdout
    [why] = [line for line in told.stdout.splitlines() if "23.6 GiB free" in line]
    assert "weights" in why
    assert "CUDA" in why, "a reason is one line, for grep"


def test_plan_explains_several_instances_beside_more_slots(tmp_path: Path) -> None:
    told = run("plan", "--simulate", "1x RTX 4090", "--explain", cwd=tmp_path)
    assert told.returncode == 0
    [both] = [line for line in told.stdout.splitlines() if "would serve" in line and "instances_per_gpu: 1" in line][:1]
    assert "the weights are held and read once" in both
    assert "predicted with every slot at work" in told.stdout
    whole = json.loads(run("plan", "--simulate", "1x RTX 4090", "--explain", "--json", cwd=tmp_path).stdout)
    assert len(whole["explained"]) == 2


def test_plan_fails_where_a_model_fits_nowhere_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("models:\n  llama3.1:8b-instruct-q4_K_M: {slots: 64, context: 131072}\n")
    told = run("plan", "--simulate", "1x RTX 4090", cwd=tmp_path)
    assert told.returncode == 1
    assert "not placed: llama3.1:8b-instruct-q4_K_M" in told.stdout


# --- config -----------------------------------------------------------------------------------------------------------


def test_config_check_knows_right_from_wrong(tmp_path: Path) -> None:
    shutil.copy(REPO / "cluster.example.yaml", tmp_path / "cluster.yaml")
    right = run("config", "check", cwd=tmp_path)
    assert (right.returncode, right.stdout) == (0, "cluster.yaml is valid\n")
    (tmp_path / "cluster.yaml").write_text("models:\n  a:1b:\n    slotz: 2\ncashe: {}\n")
    wrong = run("config", "check", cwd=tmp_path)
    assert wrong.returncode == 3
    assert "cluster.yaml:3" in wrong.stderr
    assert "cluster.yaml:4" in wrong.stderr
    assert run("config", "check", "--config", "nowhere.yaml", cwd=tmp_path).returncode == 3


def test_config_check_without_a_file_says_that_there_is_none(tmp_path: Path) -> None:
    told = run("config", "check", cwd=tmp_path)
    assert told.returncode == 3
    assert "there is no cluster.yaml here" in told.stderr


def test_config_show_fills_in_defaults_and_masks_secrets(tmp_path: Path) -> None:
    text = "models:\n  llama3.2:1b:\nkeys:\n  - {name: me, secret: env:MY_KEY}\n"
    (tmp_path / "cluster.yaml").write_text(text)
    secret = "a-secret-that-nobody-may-see"
    told = run("config", "show", cwd=tmp_path, MY_KEY=secret)
    assert told.returncode == 0, told.stderr
    assert secret not in told.stdout
    shown = yaml.safe_load(told.stdout)
    assert shown["gateway"]["workers"] == 2
    as_json = run("config", "show", "--json", cwd=tmp_path, MY_KEY=secret)
    assert secret not in as_json.stdout
    assert json.loads(as_json.stdout)["limits"] == shown["limits"]


def test_what_config_show_prints_is_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(run("config", "show", cwd=tmp_path).stdout)
    assert run("config", "check", cwd=tmp_path).returncode == 0


def test_config_schema_describes_every_section(tmp_path: Path) -> None:
    schema = json.loads(run("config", "schema", cwd=tmp_path).stdout)
    sections = {"nodes", "models", "tiers", "routes", "cache", "limits", "keys", "listen", "redis"}
    assert sections <= set(schema["properties"])


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("down", "--state", "nowhere"), 1, "no cluster runs"),
        (("up", "--nonsense"), 2, "No such option"),
        (("nonsense",), 2, "No such command"),
        (("ask",), 2, "Missing argument"),
        (("completion", "tcsh"), 2, "tcsh"),
        (("plan", "--simulate", "3x GTX 1"), 2, "unknown card 'GTX 1'; known: RTX 3060"),
        (("eval", "run", "--out", "nowhere/eval.jsonl"), 2, "there is no folder"),
        (("eval", "run", "--html", "nowhere/eval.html"), 2, "there is no folder"),
        (("route", "calibrate", "--set", "s", "--tier", "t", "--out", "nowhere/curve.json"), 2, "there is no folder"),
        (("capacity", "--plot", "nowhere/users.svg"), 2, "there is no folder"),
        (("report", "--out", "nowhere/report.html"), 2, "there is no folder"),
        (("report", "--litellm", "nowhere.jsonl"), 1, "nowhere.jsonl: No such file or directory\n"),
        (("calls", "--state", "nowhere"), 1, "has no records of calls"),
        (("drift", "--state", "nowhere"), 1, "no cluster was started with --state"),
        (("plan", "--config", "nowhere.yaml"), 3, "no such file"),
        (("status", "--state", "nowhere"), 4, "no cluster runs"),
        (("limits", "--state", "nowhere"), 4, "no cluster runs"),
        (("top", "--state", "nowhere"), 4, "no cluster runs"),
        (("ask", "hello", "--state", "nowhere"), 4, "no cluster runs"),
        (("status", "--endpoint", "127.0.0.1:1"), 4, "127.0.0.1:1 does not answer: Connection refused"),
        (("ask", "hello", "--endpoint", "127.0.0.1:1"), 4, "127.0.0.1:1 does not answer: Connection refused"),
    ],
)
def test_the_exit_code_says_who_can_act(tmp_path: Path, args: tuple[str, ...], code: int, says: str) -> None:
    told = run(*args, cwd=tmp_path)
    assert told.returncode == code, told.stderr
    assert says in told.stderr
    assert "Traceback" not in told.stderr


def test_the_readme_has_the_same_exit_codes_as_the_help(tmp_path: Path) -> None:
    readme = (REPO / "README.md").read_text()
    help_text = " ".join(run("--help", cwd=tmp_path).stdout.split())
    [line] = [line for line in readme.splitlines() if line.startswith("0 done")]
    assert line in help_text
