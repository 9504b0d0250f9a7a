"""Each process of a cluster is killed while calls come in: it comes back, and calls are answered all the while."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from callers import Callers
from running import Up, is_back, needs_built_in_engine, running, unit_pid, until

SMALL = "engine-local-cpu-smollm2-135m-0"


# A model left to itself may be done after a word.
LONG = {"type": "array", "items": {"type": "integer"}, "minItems": 1000}


# As where there is no file, but for leases that nobody sees the end of: what is given back was not waited out.
SETTINGS = """\
models:
  smollm2:135m: {slots: 2, context: 2048}
  smollm2-8k:135m: {slots: 1, context: 8192}
tiers:
  small: {model: smollm2:135m, backup: full}
  full: {model: smollm2-8k:135m, backup: small}
routes:
  auto: {cache: all}
limits: {lease_ttl_s: 600}
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    needs_built_in_engine()
    folder = tmp_path_factory.mktemp("repair")
    (folder / "cluster.yaml").write_text(SETTINGS)
    with running(folder / "state", config=folder / "cluster.yaml") as cluster:
        yield cluster


def kill(state: Path, *units: str) -> None:
    """Kill them at once, and wait until another one of each does its work."""
    old = {unit: unit_pid(state, unit) for unit in units}
    assert all(old.values())
    for pid in old.values():
        os.kill(pid, signal.SIGKILL)
    for unit, pid in old.items():
        until(partial(is_back, state, unit, pid), f"{unit} comes back")


@pytest.mark.parametrize("unit", ["controller", "redis", "guardian", SMALL])
def test_it_comes_back_and_no_call_fails(up: Up, unit: str) -> None:
    callers = Callers(up)
    with callers.asking():
        kill(up.state, unit)
        until(up.all_serve, "everything serves again")
    assert callers.failed == []
    assert f"{unit} exited" in up.screen
    assert "signal 9 (SIGKILL); restarting at once" in up.screen
    until(up.is_idle, "no slot is held by anybody")


@pytest.mark.parametrize("unit", ["gateway-0", "gateway-1"])
def test_a_gateway_worker_comes_back_and_only_its_own_calls_fail(up: Up, unit: str) -> None:
    callers = Callers(up)
    with callers.asking():
        kill(up.state, unit)
    assert len(callers.failed) <= 2, "two callers have no more than two calls on it"
    until(up.is_idle, "what it held is given back")


def test_a_killed_worker_gives_its_slot_back_long_before_the_lease_would_expire(up: Up) -> None:
    """It is known by its place: the next worker there ends what the last one held."""
    body = {"model": "smollm2-8k:135m", "prompt": "Count.", "format": LONG, "options": {"num_predict": 400}}
    with httpx.stream("POST", f"{up.endpoint}/api/generate", json=body, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        assert sum(each["in_flight"] for each in up.instances()) == 1
        kill(up.state, "gateway-0", "gateway-1")
        with pytest.raises(httpx.TransportError):
            list(lines)
    until(up.is_idle, "the slot is free")


def test_an_instance_killed_within_a_stream_ends_it_visibly(up: Up) -> None:
    body = {"model": "smollm2:135m", "prompt": "Count.", "format": LONG, "options": {"num_predict": 800}}
    with httpx.stream("POST", f"{up.endpoint}/api/generate", json=body, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        kill(up.state, SMALL)
        text = []
        with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012 - the lines before the cut are looked at too
            for line in lines:
                text.append(line)
    assert '"error":"the answer was cut off' in text[-1]
    assert not any('"done":true' in line for line in text)
    until(up.is_idle, "it serves again")
