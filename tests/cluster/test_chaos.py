"""Mixed load while gateway workers, the controller and instances are killed at random, each kind twice or more.

`OLM_CHAOS_S` is its least length in seconds, `OLM_CHAOS_SEED` the seed of a run to repeat; with `OLM_CHAOS_ENGINE=real`
instances are the machine's real engine, as `make up` starts it, and clients fewer. tests/chaos has one beside played
ones, where its answers are looked at, too.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import psutil
import pytest
from load import Client, End, Ended
from running import Up, is_back, needs_real_engine, needs_redis, running, unit_pid, until

DURATION_S = float(os.environ.get("OLM_CHAOS_S", "15"))
SEED = int(os.environ.get("OLM_CHAOS_SEED", str(secrets.randbelow(10**6))))
IS_REAL = os.environ.get("OLM_CHAOS_ENGINE") == "real"
CLIENTS = 8 if IS_REAL else 50
KINDS = ("gateway", "instance", "controller")
GATEWAYS = ("gateway-0", "gateway-1")
# A process is over when its first thread is; its sockets are closed by the last one.
LAST_THREAD_S = 0.1
MODELS = ("auto",) if IS_REAL else ("auto", "llama3.2:3b-instruct-q4_K_M", "llama3.1:8b-instruct-q4_K_M")


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill, from the signal to the process's end: until then a worker's socket takes connections, and loses them.

    `ports_elsewhere`: the clients' ports of the connections that the other gateway worker had at the signal.
    """

    unit: str
    at_s: float
    gone_s: float
    ports_elsewhere: frozenset[int]
    slots: int


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    needs_redis()
    if IS_REAL:
        needs_real_engine()
    engine = () if IS_REAL else ("--simulate", "2x RTX 4090")
    with running(tmp_path_factory.mktemp("chaos") / "state", *engine) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.timeout(DURATION_S + 240)
def test_every_call_is_answered_or_visibly_cut_whoever_is_killed(up: Up, capsys: pytest.CaptureFixture[str]) -> None:
    host, port = up.listen.split(":")
    clients = [
        Client(host, int(port), random.Random(f"{SEED}-{number}"), MODELS, keeps=number % 2 == 0)
        for number in range(CLIENTS)
    ]
    with asking(clients):
        kills = kill_at_random(up, random.Random(SEED))
    ends = [end for client in clients for end in client.ends]
    with capsys.disabled():
        print("\n" + report(ends, kills))

    assert {kill.unit.partition("-")[0] for kill in kills} == {"gateway", "engine", "controller"}
    assert [end for end in ends if end.end is End.SILENT] == []
    assert [end for end in ends if end.end is End.REFUSED] == []
    cut = [end for end in ends if end.end is End.CUT]
    assert [end for end in cut if not any(explains(kill, end) for kill in kills)] == []
    for kill in kills:
        if kill.unit not in GATEWAYS:
            assert sum(explains(kill, end) for end in cut) <= kill.slots, f"more than {kill.unit} serves at once"
    until(up.is_idle, "no slot is held and nobody waits")
    assert "Traceback" not in up.screen


@contextmanager
def asking(clients: list[Client]) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
    for each in threads:
        each.start()
    try:
        yield
    finally:
        stop.set()
        for each in threads:
            each.join()


def kill_at_random(up: Up, rng: random.Random) -> list[Kill]:
    """Kill something every few seconds, each kind in turn, and the next when that is back."""
    kills: list[Kill] = []
    never, began_s = threading.Event(), time.monotonic()
    while len(kills) < 2 * len(KINDS) or time.monotonic() - began_s < DURATION_S:
        never.wait(rng.uniform(1.0, 3.0))
        kind = KINDS[len(kills) % len(KINDS)]
        slots = 0
        if kind == "instance":
            chosen = rng.choice(up.instances())
            unit, slots = f"engine-{chosen['id']}", chosen["slots"]
        else:
            unit = "controller" if kind == "controller" else rng.choice(GATEWAYS)
        old = unit_pid(up.state, unit)
        kills.append(kill(up, unit, old, slots))
        until(partial(is_back, up.state, unit, old), f"{unit} is back")
        until(up.all_serve, "everything serves")
    return kills


def kill(up: Up, unit: str, pid: int, slots: int) -> Kill:
    ports: frozenset[int] = frozenset()
    if unit in GATEWAYS:
        os.kill(pid, signal.SIGSTOP)  # it takes no connection from here on
        [other] = set(GATEWAYS) - {unit}
        ports = ports_of(unit_pid(up.state, other))
    at_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    with suppress(psutil.NoSuchProcess):  # it has ended already
        psutil.wait_procs([psutil.Process(pid)], timeout=30)
    return Kill(unit, at_s, time.monotonic() + LAST_THREAD_S, ports, slots)


def ports_of(gateway: int) -> frozenset[int]:
    """The ports of the clients whose connections a worker has."""
    connections = psutil.Process(gateway).net_connections("tcp")
    return frozenset(each.raddr.port for each in connections if each.raddr)


def explains(kill: Kill, end: Ended) -> bool:
    """Whether a call's cut is of this kill: on a connection of the killed worker, or from the killed instance."""
    if not end.was_under_way(kill.at_s, kill.gone_s):
        return False
    if kill.unit in GATEWAYS:
        return end.port not in kill.ports_elsewhere
    return end.is_stream and kill.unit == f"engine-{end.instance}"


def report(ends: list[Ended], kills: list[Kill]) -> str:
    counted = Counter(end.end for end in ends)
    seconds = sorted(end.seconds for end in ends if end.end is End.WHOLE)
    cuts = statistics.quantiles(seconds, n=100)
    killed = Counter(kill.unit.partition("-")[0] for kill in kills)
    under_way = sum(end.was_under_way(kill.at_s, kill.gone_s) for kill in kills for end in ends)
    lines = [
        f"seed {SEED}, {DURATION_S:g} s, {CLIENTS} clients, killed: {dict(killed)}",
        f"{len(ends)} calls: " + ", ".join(f"{counted[each]} {each.value}" for each in End),
        f"{under_way} calls were under way at the moment of a kill",
        f"p50 {cuts[49] * 1e3:.0f} ms, p99 {cuts[98] * 1e3:.0f} ms, longest {seconds[-1] * 1e3:.0f} ms",
    ]
    reasons = Counter(end.why for end in ends if end.end is not End.WHOLE)
    return "\n".join(lines + [f"  {count} x {why[:160]}" for why, count in reasons.most_common(8)])
