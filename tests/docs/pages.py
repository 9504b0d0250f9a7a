"""The pages of docs/ as a test reads them: their blocks of code, their commands, their links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import dropwhile
from pathlib import Path

import click

from orchestrator.cli.main import main
from tests.house import ROOT

DOCS = ROOT / "docs"
ENGLISH, TURKISH = DOCS / "quick-start.md", DOCS / "hizli-baslangic.md"
TASKS = sorted((DOCS / "tasks").glob("*.md"))
EVERY = sorted(DOCS.rglob("*.md"))
_PROGRAM = (".venv/bin/ollamactl", "ollamactl")


def blocks(page: Path, language: str) -> list[str]:
    """The page's blocks of code in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """Every command of the page's shell blocks, as words; what is before it in its line (`NAME=value`) is left out."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = list(dropwhile(lambda word: "=" in word, shlex.split(line, comments=True)))
            if words:
                yield words


def calls_of_the_program(page: Path) -> list[list[str]]:
    """What `ollamactl` is given in each of the page's commands."""
    return [words[1:] for words in commands(page) if words[0] in _PROGRAM]


def parsed(words: Sequence[str], *, is_group_enough: bool = False) -> click.Context:
    """What `ollamactl` makes of these words. `is_group_enough`: a group may be named without a command of its own.

    Raises click.UsageError where it refuses them.
    """
    command: click.Command = main
    rest = [*words]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(main), rest.pop(0))
        assert found is not None, words
        command = found
    return command.make_context("ollamactl", rest, resilient_parsing=is_group_enough and not rest)


def links(page: Path) -> list[str]:
    """Where the page's links within the repository lead, without the part behind `#`."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\((?!https?:|mailto:|#)([^)\s#]+)", text)
