"""Whoever can write to the folder that a command is called in has none of their code run by a process of ours."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import orchestrator
from orchestrator.app import succession
from orchestrator.app.listening import Listeners, reserve
from orchestrator.app.paths import StatePaths
from orchestrator.app.renewing import _try
from orchestrator.app.workers import Workers
from orchestrator.nodes.keeper import HandedOver, Keeper

PACKAGE = Path(orchestrator.__file__).parent
# It runs in the folder of our own code, whoever calls it from wherever.
OF_ITS_OWN_FOLDER = "nodes/probe.py"
PLANTED = "import pathlib; pathlib.Path(__file__).with_name('was-run').touch()\n"


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with modules of somebody else's in it that have the names of some that we use."""
    folder = tmp_path / "planted"
    folder.mkdir()
    for name in ("uvloop", "aiohttp", "orjson", "click"):
        (folder / f"{name}.py").write_text(PLANTED)
    monkeypatch.chdir(folder)
    return folder


def commands() -> Iterator[tuple[str, list[object]]]:
    """Every list and tuple of words in the product that begins with a Python and has it run a module or code."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            words = node.elts if isinstance(node, ast.List | ast.Tuple) else node.args if _is_call(node) else []
            if words and ast.unparse(words[0]) in ("sys.executable", "program"):
                plain = [each.value if isinstance(each, ast.Constant) else None for each in words]
                if {"-m", "-c"} & set(plain):
                    yield str(path.relative_to(PACKAGE)), plain


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call)


def test_no_command_of_ours_looks_for_modules_in_the_working_folder():
    found = [each for each in commands() if each[0] != OF_ITS_OWN_FOLDER]
    assert {place for place, _ in found} >= {
        "app/workers.py", "app/up.py", "app/succession.py", "app/renewing.py", "app/packing.py", "cli/up.py",
        "fleet/engines.py", "nodes/simulator/as_ollama.py", "nodes/onhost/look.py",
    }  # fmt: skip
    assert [(place, words) for place, words in found if words[1] not in ("-P", "-I")] == []


def test_a_worker_runs_nothing_that_lies_in_the_working_folder(planted, tmp_path):
    with Listeners(reserve("127.0.0.1:0")) as listeners:
        workers = Workers(Keeper(tmp_path, lambda _: None), listeners, StatePaths(tmp_path / "state"), 1, {})
        unit = workers._unit(0, 0)
    ran = subprocess.run([*unit.argv[: unit.argv.index("--state")], "--help"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert not (planted / "was-run").exists()


async def test_a_new_program_is_tried_without_the_working_folder(planted):
    await _try(sys.executable)
    assert not (planted / "was-run").exists()


def test_a_supervisor_becomes_its_successor_without_the_working_folder(planted, monkeypatch):
    became: list[tuple[str, ...]] = []
    monkeypatch.setattr(os, "execv", lambda _, words: became.append(words))
    monkeypatch.setenv(succession.HANDED_FD, "")
    succession.become(sys.executable, succession.Succession(HandedOver((), None, 3, 4), 5, 0, 6))
    os.close(int(os.environ[succession.HANDED_FD]))
    (words,) = became
    ran = subprocess.run([*words[: words.index("orchestrator.cli") + 1], "--help"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert not (planted / "was-run").exists()
