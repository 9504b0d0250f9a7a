"""A deployed pool on real hosts gets another instance as calls wait, and to deploy once more changes nothing."""

from __future__ import annotations

import json
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.app import deployments
from tests.hosts.machines import Network
from tests.hosts.test_deploy import SMALL, Operator


@pytest.fixture
def operator(hosts: Network) -> Iterator[Operator]:
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        for each in hosts.machines.values():
            each.stand_in(card="RTX 4090", speed=20.0, pull_bytes_s=1e9)
        made = Operator(hosts, Path(folder))
        try:
            yield made
        finally:
            made.leave()


@contextmanager
def callers(operator: Operator, count: int) -> Iterator[list[int]]:
    """So many who ask for one long answer after the other; how each ended."""
    ended: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        body = {"model": SMALL, "messages": [{"role": "user", "content": "Why?"}], "options": {"num_predict": 4000}}
        while not stop.is_set():
            request = urllib.request.Request(
                f"http://{operator.endpoint}/api/chat", json.dumps(body).encode(), {"Cache-Control": "no-store"}
            )
            with urllib.request.urlopen(request, timeout=120) as answer:
                ended.append(answer.status if b'"done":true' in answer.read() else 0)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for each in threads:
        each.start()
    try:
        yield ended
    finally:
        stop.set()
        for each in threads:
            each.join()


def test_a_deployed_pool_follows_its_load_and_deploy_has_nothing_to_do(operator: Operator):
    operator.settings({SMALL: {"slots": 1, "hosts": 2, "replicas": "auto", "replicas_max": 3}}, demand={"quiet_s": 3})
    operator("deploy", "--yes")
    assert len(operator.instances(SMALL)) == 2
    with callers(operator, 6) as ended:
        operator.until(lambda: len(operator.instances(SMALL)) == 3, "a third one is placed")
        operator.until(lambda: all(each["state"] == "serving" for each in operator.instances(SMALL)), "it serves")
        said = operator("plan")
        assert "nothing to do: 3 as they are" in said
        assert f"{SMALL} follows its load: 2 at least, at most 3, now 3" in said
        current = deployments.current(operator.paths)
        assert current is not None
        assert len(current.placements) == 3
    assert set(ended) == {200}
    operator.until(lambda: len(operator.instances(SMALL)) == 2, "it goes")
    events = [json.loads(each) for each in operator.paths.events.read_text().splitlines()]
    resized = [each for each in events if each["kind"] == "resized"]
    assert [each["text"].partition(" instances")[0] for each in resized] == [f"{SMALL}: 2 → 3", f"{SMALL}: 3 → 2"]
