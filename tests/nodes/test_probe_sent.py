"""The probe's facts as text, and the program as it is sent to other hosts."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeName
from orchestrator.nodes import probe as probe_module
from orchestrator.nodes.probe import PROGRAM, Asked, Seen, bundle, facts_from_json, facts_to_json, probe
from orchestrator.nodes.sending import packed
from tests.nodes.probing import A100, MIB, RTX_4090, look
from tests.waiting import WITHIN_S

# --- facts as text ---------------------------------------------------------------------------------------------------


def test_facts_survive_the_way_through_json(play, tmp_path):
    play(
        RTX_4090,
        f"{A100} mig=1",
        "mig uuid=MIG-1g gpu=1 position=0 name=slice total=4864",
        "process on=MIG-1g pid=9 used=? as=compute",
        "fault call=nvmlDeviceGetPowerUsage answer=999",
    )
    facts = look(tmp_path)
    assert len(facts.accelerators) == 2
    assert facts_from_json(facts_to_json(facts)) == facts


def test_the_command_prints_the_facts_on_one_line(play, tmp_path):
    play(RTX_4090)
    command = [sys.executable, "-m", "orchestrator.nodes.probe", "gpu-7", str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    facts = facts_from_json(printed)
    assert facts.node == "gpu-7"
    assert [each.uuid for each in facts.accelerators] == ["GPU-4090-a"]
    assert printed.count("\n") == 1


@pytest.mark.parametrize("text", ["", "bash: python: command not found", "{}", '{"node": "n1", "cpu_count": "many"}'])
def test_text_that_is_no_inventory_is_refused_with_a_way_out(text):
    with pytest.raises(HostError, match="install the same version"):
        facts_from_json(text)


# --- as it is sent to other hosts ------------------------------------------------------------------------------------


def test_what_is_sent_is_python_3_8_and_needs_nothing_but_its_library():
    sources = {name: text for program in probe_module._modules().values() for name, text in program}
    assert len(sources) == 10
    for name, text in sources.items():
        tree = ast.parse(text, feature_version=(3, 8))
        imported = {each.split(".")[0] for each in imports_of(tree)}
        allowed = sys.stdlib_module_names | {"orchestrator", "pynvml", "psutil" if name.endswith(".host") else ""}
        assert imported <= allowed, name
        assert {each for each in imports_of(tree) if each.startswith("orchestrator.")} <= sources.keys(), name


def imports_of(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = node.module == "orchestrator.nodes.onhost"
            found |= {f"{node.module}.{each.name}" for each in node.names} if package else {str(node.module)}
    return found


def sent_program(tmp_path: Path, **asked: Any) -> subprocess.Popen[bytes]:
    program = subprocess.Popen(
        [sys.executable, *PROGRAM[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdin is not None
    program.stdin.write(packed(bundle(Asked(NodeName("gpu-7"), str(tmp_path), **asked))))
    program.stdin.flush()
    return program


def test_what_is_sent_prints_what_a_look_from_here_would_see(play, tmp_path):
    play(RTX_4090, "link a=0 b=1 path=50")
    with sent_program(tmp_path, most=1) as program:
        printed, complaint = program.communicate(timeout=WITHIN_S)
    there, here = Seen().read(printed), probe(NodeName("gpu-7"), tmp_path)
    assert complaint == b""
    changing = {"ram_free_bytes": 0, "disk_free_bytes": 0, "ollamas": ()}
    assert replace(there, **changing) == replace(here, **changing)


def test_a_line_tells_what_changed_and_the_program_ends_with_its_input(play, tmp_path):
    play(RTX_4090)
    with sent_program(tmp_path, interval_s=0.1) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        seen, first = Seen(), program.stdout.readline()
        assert seen.read(first).accelerators[0].vram_used_bytes == 1200 * MIB
        play(RTX_4090.replace("used=1200", "used=1300"))
        while seen.read(line := program.stdout.readline()).accelerators[0].vram_used_bytes != 1300 * MIB:
            assert "hostname" not in json.loads(line)
        assert seen.facts is not None
        assert (seen.facts.node, seen.facts.driver_version) == ("gpu-7", "550.54.15")
        program.stdin.close()
        assert program.wait(timeout=WITHIN_S) == 0


@pytest.mark.parametrize("line", [b"", b"sh: python3: not found\n", b"[1]\n", b'{"node": "n1"}\n'])
def test_a_line_that_is_no_inventory_is_refused(line):
    with pytest.raises(HostError, match="no inventory"):
        Seen().read(line)
