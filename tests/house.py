"""The house as docs/architecture.md draws it: every module with the first sentence of its docstring.

`python -m tests.house` puts today's drawing into the page.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "orchestrator"
PAGE = ROOT / "docs" / "architecture.md"
PARTS = ("cli", "app", "gateway", "fleet", "store", "nodes", "settings", "core")
_DRAWN = re.compile(r"(?<=```text\norchestrator/\n).*?(?=```)", re.DOTALL)
_COLUMN, _WIDTH = 24, 120


def modules() -> Iterator[Path]:
    return PACKAGE.rglob("*.py")


def part_of(module: Path) -> str:
    """The part of the house that a module lies in; a module at the top is its own."""
    parts = module.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def drawing() -> str:
    lines = [line for part in PARTS for line in _folder(PACKAGE / part, 1)]
    for each in sorted(PACKAGE.glob("[!_]*.py")):
        lines += _line(f"  {each.stem}", each)
    return "\n".join(lines) + "\n"


def drawn() -> str:
    """The drawing that the page has now."""
    found = _DRAWN.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None, f"{PAGE.name} has no drawing of the house"
    return found[0]


def _folder(folder: Path, depth: int) -> Iterator[str]:
    yield from _line(f"{'  ' * depth}{folder.name}/", folder / "__init__.py")
    entries = sorted(folder.iterdir())
    for each in entries:
        if each.suffix == ".py" and each.name != "__init__.py":
            yield from _line(f"{'  ' * (depth + 1)}{each.stem}", each)
    for each in entries:
        if (each / "__init__.py").exists():
            yield from _folder(each, depth + 1)


def _line(name: str, module: Path) -> list[str]:
    told = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    assert told, f"{module} does not say what it is"
    sentence = re.split(r"(?<=[a-zA-Z0-9`)])\.\s", " ".join(told.split("\n\n")[0].split()) + " ")[0].strip()
    first, *rest = textwrap.wrap(sentence, _WIDTH - _COLUMN, break_long_words=False, break_on_hyphens=False)
    return [f"{name:<{_COLUMN - 1}} {first}", *(" " * (_COLUMN + 2) + each for each in rest)]


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_DRAWN.sub(lambda _: drawing(), text, count=1), encoding="utf-8")
