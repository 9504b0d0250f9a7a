"""docs/architecture.md says what is: its modules, its tests, its keys and scripts exist, and imports point down."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.house import PACKAGE, PAGE, ROOT, drawing, drawn, modules, part_of

# Whom each part may import. Parts of one floor do not know each other; `app` hands the functions of one to another.
MAY_IMPORT = {
    "cli": {"app", "fleet", "nodes", "settings", "whole_file", "core"},
    "app": {"gateway", "fleet", "store", "nodes", "settings", "telemetry", "logs", "whole_file", "core"},
    "gateway": {"store", "telemetry", "core"},
    "fleet": {"nodes", "settings", "core"},
    "store": {"core"},
    "nodes": {"whole_file", "core"},
    "settings": {"whole_file", "core"},
    "telemetry": {"metric_files"},
    "logs": set(),
    "metric_files": set(),
    "whole_file": set(),
    "core": set(),
}
# What a decision must not have: a clock, a socket, a file, another process, randomness of its own.
NOT_IN_CORE = {
    "asyncio", "threading", "time", "socket", "subprocess", "random", "secrets", "uuid", "os", "shutil", "tempfile",
    "aiohttp", "redis", "psutil", "pynvml",
}  # fmt: skip
DOCUMENTS = [PAGE, ROOT / "docs" / "operations.md", *sorted((ROOT / "docs" / "decisions").glob("*.md"))]


def imports_of(module: Path) -> Iterator[str]:
    """Full names of what a module imports, wherever in it."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            yield from (f"{node.module}.{each.name}" for each in node.names)


@pytest.mark.parametrize("module", sorted(modules()), ids=lambda each: str(each.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_own_part_and_from_below(module):
    part = part_of(module)
    if part == "__init__":
        return
    used = {name.split(".")[1] for name in imports_of(module) if name.startswith("orchestrator.")}
    assert used - {part, "__version__"} <= MAY_IMPORT[part]


def test_every_part_stands_in_the_table_of_imports():
    assert {part_of(each) for each in modules()} - {"__init__"} == MAY_IMPORT.keys()


def test_decisions_have_no_clock_no_socket_and_no_file():
    for module in PACKAGE.glob("core/**/*.py"):
        assert {name.split(".")[0] for name in imports_of(module)}.isdisjoint(NOT_IN_CORE), module
        tree = ast.parse(module.read_text(encoding="utf-8"))
        assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree)), module


def test_a_worker_loads_no_library_that_it_may_never_need():
    """Each is some MiB, a worker; `make bench ARGS="--only F"` has what it holds in all."""
    late = ("aiohttp", "asyncssh", "cryptography", "jwt", "pynvml")
    code = f"import sys, orchestrator.app.gateway; print([each for each in {late} if each in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_no_two_files_of_tests_have_one_name():
    """pytest imports them by it: of two with the same, one cannot be collected."""
    names = Counter(each.name for each in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_the_house_is_drawn_as_it_stands():
    assert drawn() == drawing(), "put today's into the page: python -m tests.house"


@cache
def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {each.name for each in functions if each.name.startswith("test_")}


def test_every_test_named_as_a_guard_is_there():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert named
    for path, name in named:
        assert (ROOT / path).exists(), path
        assert name in names_in(ROOT / path), f"{path} has no {name}"


def test_every_invariant_has_a_guard_or_says_that_it_has_none():
    text = PAGE.read_text(encoding="utf-8").partition("## Invariants")[2].partition("\n## ")[0]
    items = re.split(r"\n(?=\d+\. )", text)[1:]
    assert len(items) >= 10
    for item in items:
        assert "::test_" in item or "no test" in item, item


def test_every_script_and_every_key_is_explained():
    text = PAGE.read_text(encoding="utf-8")
    scripts = {each.stem for each in (PACKAGE / "store" / "lua").glob("*.lua")} - {"pool"}
    assert {each for each in scripts if f"| `{each}` |" not in text} == set()
    schema = (PACKAGE / "store" / "schema.py").read_text(encoding="utf-8")
    kinds = set(re.findall(r"olm:[a-z]+", schema)) | {"olm:{cluster}"}
    assert {each for each in kinds if f"`{each}" not in text} == set()


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda each: each.name)
def test_every_file_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for named in re.findall(r"`((?:orchestrator|tests|benchmarks|deploy|nginx|docs)/[\w./-]+)`", text):
        assert (ROOT / named).exists(), named
    for module in re.findall(r"`((?:cli|app|gateway|fleet|store|nodes|settings|core)/[\w/]+\.(?:py|lua))`", text):
        assert (PACKAGE / module).exists(), module
