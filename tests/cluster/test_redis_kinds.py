"""`ollamactl gateway` on a Redis Cluster: calls queued, cached, counted, and a master that dies under them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import yaml
from callers import Callers
from running import Up, needs_redis, until

from orchestrator.store.embedded import find_server
from orchestrator.store.schema import pool_keys
from orchestrator.store.slots import SLOTS, slot_of
from tests.fleet.given_world import Played, model
from tests.store.playing import Cluster

MODEL = "llama3.2:3b"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    needs_redis()
    made = Cluster(find_server(), tmp_path_factory.mktemp("redis"), has_replicas=True)
    try:
        made.start()
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="module")
def up(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("gateway")
    with ExitStack() as stack:
        played = [Played(folder, model(MODEL)) for _ in range(2)]
        for each in played:
            stack.callback(each.kill)
            each.start()
        config = folder / "cluster.yaml"
        settings = {
            "redis": cluster.url,
            "instances": [{"url": each.url, "slots": 2} for each in played],
            "tiers": {tier: {"model": MODEL} for tier in ("small", "full")},
            "routes": {"auto": {}},
        }
        config.write_text(yaml.safe_dump(settings))
        up = Up(folder / "state", config=config, command="gateway")
        stack.callback(up.close)
        up.wait_until_ready()
        yield up


def is_idle(up: Up) -> bool:
    """Whether no slot is held and nobody waits; a server may have the model on its disk alone."""
    pools = up.status()["pools"]
    return not any(each["in_flight"] for pool in pools for each in pool["instances"]) and not any(
        pool["queue_depth"] for pool in pools
    )


def test_calls_are_answered_kept_and_counted(up: Up) -> None:
    until(lambda: up.chat("what is kept?").headers["X-Cache"].startswith("hit"), "the answer is in the cache")
    until(lambda: is_idle(up), "no slot is held and nobody waits")


def test_more_calls_than_slots_wait_and_are_answered_in_their_turn(up: Up) -> None:
    told: list[int] = []

    def one(number: int) -> None:
        told.append(up.chat(f"question {number}").status_code)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert told == [200] * 16
    until(lambda: is_idle(up), "no slot is held and nobody waits")


def test_where_the_pools_master_dies_no_call_fails(up: Up, cluster: Cluster) -> None:
    share = -(-SLOTS // len(cluster.masters))
    callers = Callers(up)
    with callers.asking():
        cluster.kill_node(cluster.masters[slot_of(pool_keys(MODEL)[0]) // share])
        before = callers.answered
        until(lambda: callers.answered > before + 8, "calls go on")
    assert callers.failed == []
    until(lambda: is_idle(up), "no slot is held and nobody waits")
