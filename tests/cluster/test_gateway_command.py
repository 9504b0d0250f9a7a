"""`ollamactl gateway` before servers that somebody else runs: played ones, started and ended by the test alone."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from callers import Callers
from running import TIMEOUT_S, Up, environment, needs_redis, ollamactl, processes_of, unit_pid, until

from tests.fleet.given_world import Played, model

Start = Callable[..., Up]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    needs_redis()
    with ExitStack() as made:
        yield made


@pytest.fixture
def play(stack: ExitStack, tmp_path: Path) -> Callable[..., Played]:
    """A server that runs, until the test ends."""

    def start(*models: Any, **changes: Any) -> Played:
        played = Played(tmp_path, *models, **changes)
        stack.callback(played.kill)
        return played.start()

    return start


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "cluster.yaml"


@pytest.fixture
def gateway(stack: ExitStack, tmp_path: Path, config: Path) -> Start:
    """The command with these settings, ready; at the end nothing of it is left."""

    def start(*args: str, **settings: Any) -> Up:
        write(config, **settings)
        up = Up(tmp_path / "state", *args, config=config, command="gateway")
        stack.callback(up.close)
        up.wait_until_ready()
        return up

    return start


def write(config: Path, **settings: Any) -> None:
    fresh = config.with_suffix(".new")
    fresh.write_text(yaml.safe_dump(settings))
    fresh.replace(config)


def models_of(up: Up) -> set[str]:
    listed = httpx.get(f"{up.endpoint}/api/tags", timeout=TIMEOUT_S).json()["models"]
    return {each["name"] for each in listed if each["details"].get("format") != "route"}


def given(up: Up) -> dict[str, str]:
    return {each["url"]: each["state"] for each in up.status()["given"]}


def in_memory(played: Played) -> set[str]:
    return {each["model"] for each in httpx.get(f"{played.url}/api/ps", timeout=TIMEOUT_S).json()["models"]}


# --- serving ---------------------------------------------------------------------------------------------------------


def test_what_the_servers_have_is_one_ollama(play: Callable[..., Played], gateway: Start) -> None:
    one, two = play(model("small:1b"), model("big:8b")), play(model("big:8b"))
    up = gateway("--workers", "1", instances=[{"url": one.url, "slots": 2, "name": "one"}, {"url": two.url}])
    assert up.ready["replies"] == []
    assert in_memory(one) == in_memory(two) == set(), "nothing was asked of them"
    assert models_of(up) == {"small:1b", "big:8b"}
    told = up.chat("hello", model="small:1b")
    assert told.status_code == 200
    assert told.headers["X-Instance"] == "one/small:1b"
    assert "[simulated RTX 4090]" in told.json()["message"]["content"]
    told = up.post("/v1/chat/completions", {"model": "big:8b", "messages": [{"role": "user", "content": "hello"}]})
    assert told.status_code == 200
    assert in_memory(one) | in_memory(two) == {"small:1b", "big:8b"}
    assert up.chat("hello", model="nobody").status_code == 404
    assert sum(name.startswith("gateway-") for name in set(processes_of(up.state).values())) == 1
    assert not any(name.startswith("engine-") for name in processes_of(up.state).values())


def test_status_names_each_server_and_what_it_has_in_memory(play: Callable[..., Played], gateway: Start) -> None:
    one, gone = play(model("small:1b")), play(model("small:1b"))
    gone.kill()
    up = gateway(instances=[{"url": one.url, "name": "one"}, {"url": gone.url, "name": "gone"}])
    assert any("gone is down: no connection" in each for each in up.ready["notes"])
    up.chat("hello", model="small:1b")
    until(lambda: up.status()["given"][0]["resident"] == ["small:1b"], "it is in memory")
    told = ollamactl("status", "--state", up.state, cwd=up.state.parent, env=environment() | {"COLUMNS": "200"})
    assert told.returncode == 0
    assert "one  " in told.stdout
    assert "no connection: Connection refused" in told.stdout
    assert one.label in told.stdout
    assert ollamactl("plan", "--config", up.state.parent / "cluster.yaml", cwd=up.state.parent).returncode == 0


def test_tiers_and_routes_work_with_what_the_servers_have(play: Callable[..., Played], gateway: Start) -> None:
    one, two = play(model("small:latest")), play(model("big:8b"))
    tiers = {"small": {"model": "Small", "backup": "full"}, "full": {"model": "big:8b", "backup": "small"}}
    up = gateway(instances=[{"url": one.url}, {"url": two.url}], tiers=tiers, routes={"auto": {}})
    told = up.chat("What is the capital of France?")
    assert (told.status_code, told.headers["X-Tier"]) == (200, "small")
    two.kill()
    until(lambda: given(up)[two.url] == "down", "it is known to be down")
    told = up.chat("Prove step by step that the sum of two odd numbers is even, then write a Python function.")
    assert (told.status_code, told.headers["X-Tier"]) == (200, "small")
    ready = httpx.get(f"{up.endpoint}/readyz", timeout=TIMEOUT_S)
    assert (ready.status_code, ready.text) == (503, "no instance serves: big:8b\n")


def test_without_any_server_calls_are_refused_with_a_time_to_come_back(
    play: Callable[..., Played], gateway: Start
) -> None:
    one = play(model("small:1b"))
    one.kill()
    up = gateway(instances=[{"url": one.url, "model": "small:1b"}])
    told = up.chat("hello", model="small:1b")
    assert told.status_code == 503
    assert int(told.headers["Retry-After"]) >= 1
    one.start()
    until(lambda: up.chat("hello", model="small:1b").status_code == 200, "it is served as soon as it answers")


def test_many_models_share_few_places_in_memory_and_every_call_is_answered(
    play: Callable[..., Played], gateway: Start
) -> None:
    names = ["a", "b", "c"]
    servers = [play(*map(model, names), max_loaded_models=1) for _ in range(2)]
    up = gateway(instances=[{"url": each.url, "slots": 2} for each in servers])
    statuses: Counter[int] = Counter()
    guard = threading.Lock()

    def caller(number: int) -> None:
        for turn in range(5):
            told = up.chat(f"{number} {turn}", model=names[(number + turn) % 3], tokens=4)
            with guard:
                statuses[told.status_code] += 1

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(9)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert statuses == {200: 45}
    until(lambda: not any(each["in_flight"] for each in up.instances()), "no slot is held")


# --- while things happen ---------------------------------------------------------------------------------------------


def test_no_call_fails_while_one_server_goes_away_and_comes_back(play: Callable[..., Played], gateway: Start) -> None:
    one, two = play(model("auto")), play(model("auto"))
    up = gateway(instances=[{"url": one.url, "slots": 2}, {"url": two.url, "slots": 2}])
    callers = Callers(up)
    with callers.asking():
        one.kill()
        until(lambda: given(up)[one.url] == "down", "it is known to be down")
        one.start()
        until(lambda: given(up)[one.url] == "serving", "it is back")
    # What was under way on the killed one has ended with it: a whole answer is asked for elsewhere.
    assert not callers.failed, callers.failed


def test_servers_are_added_and_taken_out_by_an_edit_without_a_failed_call(
    play: Callable[..., Played], gateway: Start, config: Path
) -> None:
    one, two = play(model("auto")), play(model("auto"), model("other"))
    up = gateway(instances=[{"url": one.url, "slots": 2}])
    callers = Callers(up)
    with callers.asking():
        write(config, instances=[{"url": one.url, "slots": 2}, {"url": two.url, "slots": 2}])
        until(lambda: models_of(up) == {"auto", "other"}, "the second is served")
        write(config, instances=[{"url": two.url, "slots": 2}])
        until(lambda: list(given(up)) == [two.url], "the first is gone")
    assert not callers.failed, callers.failed


def test_an_edit_that_is_wrong_is_refused_and_so_is_one_that_would_deploy(
    play: Callable[..., Played], gateway: Start, config: Path
) -> None:
    one = play(model("small:1b"))
    up = gateway(instances=[{"url": one.url}])
    config.write_text("instances: [{url: nowhere}]\n")
    until(lambda: any("expected http://host:port" in each for each in up.status()["notes"]), "it is refused")
    config.write_text("models: {'small:1b': }\n")
    until(lambda: any("start it again" in each for each in up.status()["notes"]), "that is refused too")
    assert up.chat("hello", model="small:1b").status_code == 200
    assert list(given(up)) == [one.url]


def test_a_killed_controller_comes_back_and_nothing_is_noticed(play: Callable[..., Played], gateway: Start) -> None:
    one = play(model("auto"))
    up = gateway(instances=[{"url": one.url, "slots": 2}])
    callers = Callers(up)
    with callers.asking():
        pid = unit_pid(up.state, "controller")
        os.kill(pid, signal.SIGKILL)
        until(lambda: unit_pid(up.state, "controller") not in (0, pid), "another one runs")
    assert not callers.failed, callers.failed


# --- life ------------------------------------------------------------------------------------------------------------


def test_kill_9_of_the_command_ends_all_that_it_started_and_no_server(
    play: Callable[..., Played], gateway: Start
) -> None:
    one = play(model("small:1b"))
    up = gateway(instances=[{"url": one.url}])
    assert {"redis", "controller", "gateway-0", "gateway-1"} <= set(processes_of(up.state).values())
    up.end(signal.SIGKILL)
    assert not processes_of(up.state)
    assert httpx.get(f"{one.url}/api/version", timeout=TIMEOUT_S).status_code == 200


def test_it_runs_on_by_itself_with_detach_and_is_ended_by_down(
    play: Callable[..., Played], stack: ExitStack, tmp_path: Path, config: Path
) -> None:
    one = play(model("small:1b"))
    write(config, instances=[{"url": one.url}])
    state, ready = tmp_path / "state", tmp_path / "ready.json"
    listen = ("--listen", "127.0.0.1:0")
    begun = ollamactl(
        "gateway", "--state", state, "--config", config, *listen, "--detach", "--ready-file", ready, cwd=tmp_path
    )
    stack.callback(ollamactl, "down", "--state", state, cwd=tmp_path)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    endpoint = json.loads(ready.read_text())["endpoint"]
    assert httpx.get(f"{endpoint}/healthz", timeout=TIMEOUT_S).status_code == 200
    again = ollamactl("gateway", "--state", state, "--config", config, *listen, cwd=tmp_path)
    assert again.returncode == 1
    assert ollamactl("down", "--state", state, cwd=tmp_path).returncode == 0
    assert not processes_of(state)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("models: {a: }\n", 3, "names no `instances`"),
        ("instances: [{url: 'https://gpu-1:443', cert: a.pem}]\n", 3, "is of use with `key` alone"),
        ("instances: [{url: 'http://gpu-1:1', slots: many}]\n", 3, ":1:44: instances[0].slots"),
        (None, 3, "there is no cluster.yaml here"),
    ],
)
def test_settings_without_servers_are_refused_with_what_is_wrong(
    tmp_path: Path, text: str | None, code: int, words: str
) -> None:
    if text is not None:
        (tmp_path / "cluster.yaml").write_text(text)
    told = ollamactl("gateway", "--state", tmp_path / "state", cwd=tmp_path)
    assert told.returncode == code
    assert words in " ".join(told.stderr.split())
    assert not processes_of(tmp_path / "state")


def test_a_number_of_workers_that_cannot_be_is_a_wrong_command_line(tmp_path: Path) -> None:
    assert ollamactl("gateway", "--workers", "0", cwd=tmp_path).returncode == 2
