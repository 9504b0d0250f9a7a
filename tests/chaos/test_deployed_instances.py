"""Each process of a deployed instance is looked at by itself, with the slots that it began with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.chaos import checker
from tests.chaos.deployed import Deployed, lives


def test_a_process_that_follows_another_has_slots_of_its_own() -> None:
    took = {"event": "took", "n": 0, "at_s": 1.0, "id": "c-1"}
    told = [{"event": "began", "slots": 1}, took, {"event": "began", "slots": 2}, took | {"n": 1}, took | {"n": 2}]
    events, slots = lives({"one": [each | {"at_s": float(at)} for at, each in enumerate(told)]})
    assert slots == {"one, process 1": 1, "one, process 2": 2}
    assert [len(each) for each in events.values()] == [2, 3]
    assert checker.oversold(events, slots) == []


def test_a_program_that_is_no_simulator_is_left_alone_and_one_that_is_keeps_a_journal(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path)
    other = subprocess.run(deployed.before([sys.executable, "-c", "print('other')"]), check=True, capture_output=True)
    assert other.stdout == b"other\n"
    assert deployed.journals() == {}
    config = tmp_path / "none.json"
    argv = [sys.executable, "-P", "-m", "orchestrator.nodes.simulator", "--config", str(config)]
    begun = subprocess.run(deployed.before(argv), check=False, capture_output=True, text=True)
    assert "chaos/engine.py" in begun.stderr, json.dumps(begun.stderr)
    assert [name.endswith("none.json") for name in deployed.journals()] == [True]
