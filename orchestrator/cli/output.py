"""Drawing on the terminal: one console for answers, one for errors. Elsewhere than on a terminal: plain lines."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

# A pipe or a file has no width: a table's row is one line there, for grep.
PLAIN_WIDTH = 240
# What a terminal obeys instead of showing it. Lines may end, and have tabs.
_COMMANDS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _console(stream: TextIO, *, is_stderr: bool) -> Console:
    is_plain = not stream.isatty()
    width = PLAIN_WIDTH if is_plain and "COLUMNS" not in os.environ else None
    return Console(stderr=is_stderr, highlight=False, width=width, soft_wrap=is_plain)


console = _console(sys.stdout, is_stderr=False)
errors = _console(sys.stderr, is_stderr=True)


def readable(text: str) -> str:
    """Words that others wrote, without those that a terminal takes for commands."""
    return _COMMANDS.sub("\ufffd", text)


def literal(text: str) -> str:
    """Words that others wrote, as they are to stand in what is printed: neither a terminal's commands nor markup."""
    return escape(readable(text))


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """Whatever others wrote in it, a terminal shows it, and a program reads the same."""
    written = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    return _COMMANDS.sub(_escaped, written)


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def fail(text: str, code: int) -> NoReturn:
    """End the program with an error text and its exit code."""
    errors.print(f"[red]error:[/red] {literal(text)}", soft_wrap=True)
    sys.exit(code)


def table(*columns: str) -> Table:
    """A table whose cells are never cut off: what does not fit goes on in the next line."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def below(text: str) -> Padding:
    """A remark in the row below the one it is about."""
    return Padding(f"[dim]{literal(text)}[/dim]", (0, 0, 0, 4))


def draw(drawn: Table) -> None:
    """Print a table; its rows are laid out in a pipe too."""
    console.print(drawn, soft_wrap=False)


def hanging(label: str, text: str) -> None:
    """Print `text` behind `label`; on a terminal its further lines begin where its first one did."""
    if not console.is_terminal:
        console.print(f"{label}{text}")
        return
    grid = Table.grid()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(label, text)
    console.print(grid)


def program() -> str:
    """How the user calls this program from where they stand, for commands to copy."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":  # `python -m orchestrator.cli`, as `up --detach` starts it
        called = Path(sys.executable).with_name("ollamactl")
        if not called.exists():
            return f"{shlex.quote(sys.executable)} -m orchestrator.cli"
    if shutil.which(called.name) == str(called.absolute()):
        return called.name
    path = called.absolute()
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return shlex.quote(str(path) if len(path.parts) > 1 else f"./{path}")
