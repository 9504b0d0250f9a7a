"""The fleet's small decisions: units and their environment, sizes, memory of our own, seats, ports, marks, adoption."""

from __future__ import annotations

import os
import random
import socket
import sys
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from orchestrator.core.errors import HostError, SettingsError
from orchestrator.core.model import (
    Accelerator,
    Engine,
    Footprint,
    GpuProcess,
    Instance,
    InstanceId,
    InstanceState,
    NodeName,
    Placement,
    PlacementPlan,
    Pool,
    PoolName,
    Snapshot,
)
from orchestrator.fleet.adoption import adopt
from orchestrator.fleet.engines import LocalEngine, ollama_unit
from orchestrator.fleet.inventory import blind_spots
from orchestrator.fleet.made import Made, found, marked, marks_of
from orchestrator.fleet.own import own_bytes, usable_bytes
from orchestrator.fleet.ports import free_port, listens
from orchestrator.fleet.seats import seat_for
from orchestrator.fleet.wanted import want
from orchestrator.nodes.keeper_units import Unit, UnitState, UnitStatus
from orchestrator.nodes.simulator.config import SEATS_PER_CARD, config_for
from orchestrator.nodes.weights import pulled_weights
from tests.fleet.world import HERE, SMALL, settings_of

GIB = 2**30


def placed(name: str = "a", cards: tuple[str, ...] = ("GPU-0",), size: int = 6 * GIB) -> Placement:
    footprint = Footprint(size, 0, 0, 0, 0)
    return Placement(InstanceId(name), PoolName(SMALL), NodeName("sim"), cards, 2, 4096, footprint, "")


def card(uuid: str = "GPU-0", free: int = 10 * GIB, *processes: GpuProcess, simulated: bool = False) -> Accelerator:
    return Accelerator(uuid, 0, "RTX 4090", 24 * GIB, free, 24 * GIB - free, processes, is_simulated=simulated)


# --- units -----------------------------------------------------------------------------------------------------------


def test_an_ollama_is_pinned_sized_and_cut_off_from_the_cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    unit = ollama_unit(placed(), LocalEngine(Engine.OLLAMA, "/usr/bin/ollama"), 20001, "q8_0")
    assert unit.argv == ("/usr/bin/ollama", "serve")
    expected = {
        "OLLAMA_HOST": "127.0.0.1:20001",
        "OLLAMA_NUM_PARALLEL": "2",
        "OLLAMA_CONTEXT_LENGTH": "4096",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "OLLAMA_FLASH_ATTENTION": "1",
        "LLAMA_ARG_FIT_TARGET": "64",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_MODELS": str(tmp_path),
        "CUDA_VISIBLE_DEVICES": "GPU-0",
        "HOME": str(Path.home()),
    }
    assert expected.items() <= unit.env.items()
    assert "OLLAMA_SCHED_SPREAD" not in unit.env


def test_an_ollama_without_a_home_in_the_environment_gets_its_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    home = ollama_unit(placed(), LocalEngine(Engine.OLLAMA, "ollama"), 20001, "f16").env["HOME"]
    assert Path(home).is_dir()


def test_an_instance_on_several_cards_spreads_evenly_as_placement_counted() -> None:
    unit = ollama_unit(placed(cards=("GPU-0", "GPU-1")), LocalEngine(Engine.OLLAMA, "ollama"), 20001, "f16")
    assert unit.env["CUDA_VISIBLE_DEVICES"] == "GPU-0,GPU-1"
    assert unit.env["OLLAMA_SCHED_SPREAD"] == "1"


def test_a_running_process_says_what_it_was_made_as() -> None:
    import subprocess

    made = Made(placed(), 20001, "simulated f16", False)
    unit = marked(Unit(made.unit, (sys.executable, "-c", "input()")), made)
    environment = {**os.environ, **unit.env}
    with subprocess.Popen(unit.argv, env=environment, stdin=subprocess.PIPE) as process:
        marks = marks_of({made.unit: process.pid, "engine-other": process.pid, "engine-me": os.getpid()})
        assert found(marks) == {made.unit: made}
        process.communicate(b"\n")


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_a_model_of_unknown_size_is_refused_with_the_way_out() -> None:
    settings = settings_of(unheard_of={})
    with pytest.raises(SettingsError, match="ollama pull unheard_of"):
        want(settings, (replace(HERE, is_simulated=True),), LocalEngine(Engine.OLLAMA))


def test_terms_differ_by_cache_type_and_engine_and_not_by_where_the_size_is_known_from() -> None:
    facts = (replace(HERE, accelerators=(card(free=23 * GIB),)),)
    small, ollama = settings_of(small={}), LocalEngine(Engine.OLLAMA)
    terms = want(small, facts, ollama).terms[SMALL]
    assert want(settings_of(small={"kv_cache": "q8_0"}), facts, ollama).terms[SMALL] != terms
    assert want(small, (replace(facts[0], is_simulated=True),), ollama).terms[SMALL] != terms
    assert want(settings_of(small={"slots": 4, "context": 8192}), facts, ollama).terms[SMALL] == terms


def test_a_model_that_the_settings_call_embedding_is_one() -> None:
    facts = (replace(HERE, accelerators=(card(free=23 * GIB),)),)
    wanted = want(settings_of(small={"embedding": True, "slots": 4}), facts, LocalEngine(Engine.OLLAMA))
    assert wanted.shapes[SMALL].is_embedding
    assert wanted.plan.placements[0].slots == 1


# --- memory of our own -----------------------------------------------------------------------------------------------


def test_what_our_processes_hold_on_a_card_is_ours_and_a_strangers_is_not() -> None:
    facts = replace(HERE, accelerators=(card("GPU-0", 10 * GIB, GpuProcess(os.getpid(), 5 * GIB), GpuProcess(1, GIB)),))
    assert own_bytes([facts], [os.getpid()]) == {"GPU-0": 5 * GIB}


def test_where_the_driver_does_not_say_it_is_what_was_promised_and_never_more_than_is_in_use() -> None:
    silent = card("GPU-0", 20 * GIB, GpuProcess(os.getpid(), None), GpuProcess(1, GIB))
    facts = replace(HERE, accelerators=(silent,))
    assert own_bytes([facts], [os.getpid()], [placed(size=6 * GIB)]) == {"GPU-0": 3 * GIB}
    assert own_bytes([facts], [os.getpid()], [placed(size=2 * GIB)]) == {"GPU-0": 2 * GIB}
    assert own_bytes([facts], [], [placed()]) == {"GPU-0": 0}


def test_a_simulated_card_is_free_as_if_we_were_not_there() -> None:
    facts = replace(HERE, accelerators=(card(simulated=True, free=23 * GIB),), is_simulated=True)
    assert own_bytes([facts], [os.getpid()], [placed()]) == {"GPU-0": 0}
    assert usable_bytes([facts], [placed()])["GPU-0"] <= 23 * GIB


def test_on_a_cpu_our_processes_memory_is_counted_without_mapped_files() -> None:
    held = own_bytes([HERE], [os.getpid()])["sim"]
    assert 0 < held < 2 * GIB
    assert own_bytes([HERE], [2**22 + 1]) == {"sim": 0}


def test_cards_that_a_complaining_driver_hides_are_no_reason_to_move() -> None:
    healthy = replace(HERE, accelerators=(card("GPU-1"),))
    sick = replace(HERE, problems=("the NVIDIA driver did not answer within 30 s",))
    assert blind_spots([healthy], [placed()]) == ()  # the card is gone
    assert "nothing is moved" in blind_spots([sick], [placed()])[0]
    assert blind_spots([sick], [placed(cards=())]) == ()


# --- seats, ports ----------------------------------------------------------------------------------------------------


def _written(placement: Placement, plan: PlacementPlan, folder: Path) -> int:
    shape = want(settings_of(small={}), (replace(HERE, is_simulated=True),), LocalEngine(Engine.OLLAMA)).shapes[SMALL]
    seat = seat_for(placement, plan, folder)
    config_for(
        instance=placement.instance, host="127.0.0.1", port=1, card=None, card_id=placement.accelerators[0],
        model=SMALL, shape=shape, footprint=placement.footprint, slots=2, context=4096, sim_dir=folder, seat=seat,
    )  # fmt: skip
    return seat


def test_seats_are_distinct_on_a_card_and_kept_through_a_change_of_plan(tmp_path: Path) -> None:
    first = [placed(name) for name in ("a", "b", "c")]
    plan = PlacementPlan(tuple(first))
    assert [_written(each, plan, tmp_path) for each in first] == [0, 1, 2]
    later = PlacementPlan((placed("x", cards=("GPU-0", "GPU-1")), first[1], first[2]))
    assert [_written(each, later, tmp_path) for each in later.placements] == [0, 1, 2]


def test_more_instances_than_a_simulated_card_has_places_are_refused_with_a_reason(tmp_path: Path) -> None:
    plan = PlacementPlan(tuple(placed(f"i{number}") for number in range(SEATS_PER_CARD + 1)))
    seats = [_written(each, plan, tmp_path) for each in plan.placements[:-1]]
    assert sorted(seats) == list(range(SEATS_PER_CARD))
    with pytest.raises(HostError, match="places for 64 instances"):
        seat_for(plan.placements[-1], plan, tmp_path)


def test_a_port_is_free_no_instances_and_none_that_outgoing_connections_use() -> None:
    taken: set[int] = set()
    for _ in range(50):
        port = free_port(taken, random.Random(7))
        assert port not in taken
        taken.add(port)
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if first_outgoing > 20_000:
        assert max(taken) < first_outgoing


def test_whose_port_it_is_is_known() -> None:
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        port = ours.getsockname()[1]
        assert not listens(os.getpid(), port)
        ours.listen()
        assert listens(os.getpid(), port)
        assert not listens(2**22 + 1, port)


# --- adoption --------------------------------------------------------------------------------------------------------


def _published(state: InstanceState, at_unix_ms: int = 1000) -> Snapshot:
    instance = Instance(
        InstanceId("a"),
        NodeName("sim"),
        PoolName(SMALL),
        "127.0.0.1",
        20001,
        Engine.OLLAMA,
        SMALL,
        2,
        4096,
        state=state,
    )
    return Snapshot(7, at_unix_ms, (Pool(PoolName(SMALL), 4096, False, (instance,), {"show": {}}),))


@pytest.mark.parametrize(
    ("state", "since_unix_ms", "unit_state", "stands"),
    [
        (InstanceState.SERVING, 999, UnitState.RUNNING, InstanceState.SERVING),
        (InstanceState.SERVING, 1001, UnitState.RUNNING, InstanceState.STARTING),
        (InstanceState.SERVING, 999, UnitState.WAITING, InstanceState.STARTING),
        (InstanceState.DRAINING, 999, UnitState.RUNNING, InstanceState.STARTING),
        (InstanceState.DOWN, 999, UnitState.RUNNING, InstanceState.STARTING),
    ],
)
def test_what_served_and_has_the_same_process_still_serves(
    state: InstanceState, since_unix_ms: int, unit_state: UnitState, stands: InstanceState
) -> None:
    unit = UnitStatus("engine-a", 77, unit_state, 0, since_unix_ms, None, Path("log"))
    made = {"engine-a": Made(placed(), 20001, "f16", False)}
    ((found_running,), strays) = adopt([unit], made, _published(state))
    assert found_running.before is not None
    assert (found_running.before.state, strays) == (stands, ())


def test_a_process_that_was_never_published_is_known_by_its_mark_and_one_without_is_a_stray() -> None:
    units = [
        UnitStatus(name, 77, UnitState.RUNNING, 0, 1, None, Path("log")) for name in ("engine-a", "engine-b", "redis")
    ]
    adopted, strays = adopt(units, {"engine-a": Made(placed(), 20001, "f16", False)}, None)
    assert [(each.made.port, each.before) for each in adopted] == [(20001, None)]
    assert strays == ("engine-b",)


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("llama3.2", "registry.ollama.ai/library/llama3.2/latest"),
        ("llama3.2:3b", "registry.ollama.ai/library/llama3.2/3b"),
        ("me/mine:q4", "registry.ollama.ai/me/mine/q4"),
        ("hf.co/a/b:Q4_K_M", "hf.co/a/b/Q4_K_M"),
        ("house:5000/a/b", "house:5000/a/b/latest"),
    ],
)
def test_pulled_weights_are_found_by_every_kind_of_name(tmp_path: Path, name: str, path: str) -> None:
    assert pulled_weights(tmp_path, name) is None
    manifest = tmp_path / "manifests" / path
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:aa"}
    manifest.write_bytes(orjson.dumps({"layers": [layer]}))
    assert pulled_weights(tmp_path, name) is None  # recorded, and not there
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "sha256-aa").touch()
    assert pulled_weights(tmp_path, name) == tmp_path / "blobs" / "sha256-aa"
    manifest.write_text('{"layers": [')
    assert pulled_weights(tmp_path, name) is None
