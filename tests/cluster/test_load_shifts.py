"""A cluster whose callers become more: its pool gets another instance by itself, and says why."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import Up, needs_redis, ollamactl, running, until

SETTINGS = """\
nodes:
  - {name: sim, simulate: "2x RTX 4090"}
models:
  llama3.2:3b: {slots: 1, replicas: auto, replicas_max: 2}
  llama3.1:8b: {slots: 1}
"""
SMALL = "llama3.2:3b"


@contextmanager
def callers(up: Up, count: int) -> Iterator[list[str]]:
    """So many who ask one question after another until the block ends; what failed is in the list."""
    failed: list[str] = []
    stop = threading.Event()

    def ask(caller: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            told = up.chat(f"Caller {caller} has question {number}.", model=SMALL, tokens=200)
            if told.status_code != 200 or told.json()["done"] is not True:
                failed.append(told.text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for each in threads:
        each.start()
    try:
        yield failed
    finally:
        stop.set()
        for each in threads:
            each.join()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    needs_redis()
    (tmp_path / "cluster.yaml").write_text(SETTINGS)
    with running(tmp_path / "state", config=tmp_path / "cluster.yaml") as cluster:
        yield cluster


def serving(up: Up) -> set[str]:
    return {each["id"] for each in up.instances() if each["pool"] == SMALL and each["state"] == "serving"}


def told(up: Up, command: str, *words: str) -> str:
    return ollamactl(command, "--state", up.state, *words, cwd=up.state.parent).stdout


def test_a_pool_gets_another_instance_when_calls_wait_and_status_and_events_say_why(up: Up) -> None:
    before = serving(up)
    assert len(before) == 1
    assert "follows its load: 1 wanted (1 at least, at most 2): as it began" in told(up, "status")
    with callers(up, 4) as failed:
        until(lambda: len(serving(up)) == 2, "a second instance serves")
        (new,) = serving(up) - before
        until(lambda: any(each["in_flight"] for each in up.instances() if each["id"] == new), "it has a call")
    assert failed == []
    (pool,) = (each for each in up.status()["pools"] if each["name"] == SMALL)
    assert pool["followed"]["limits"] == {"least": 1, "most": 2, "foretold": None}
    assert "of 1 slots at work" in pool["followed"]["why"]
    assert "follows its load: 2 wanted" in told(up, "status")
    events = [json.loads(line) for line in told(up, "events", "--json").splitlines()]
    assert [each["text"].partition(": ")[0] for each in events if each["kind"] == "resized"] == [SMALL]
    assert sum(each["pool"] == "llama3.1:8b" for each in up.instances()) == 1
