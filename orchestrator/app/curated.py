"""Files of curated answers read: one FAQ of all of them, or a SettingsError that names each file and line."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.core.errors import SettingsError
from orchestrator.core.faq import Faq, FaqEntry, FaqError
from orchestrator.core.faq_files import parse_faq


def faq_from(paths: Iterable[Path], *, paraphrases: bool = True) -> Faq:
    """All curated answers of the files. Raises SettingsError with a line for every mistake."""
    with _without_collecting():
        entries = entries_of(paths)
        try:
            return Faq.from_entries(entries, paraphrases=paraphrases)
        except FaqError as why:
            raise SettingsError(str(why)) from why


def entries_of(paths: Iterable[Path]) -> list[FaqEntry]:
    """The entries of the files, one after the other. Raises SettingsError with the mistakes of all of them."""
    entries: list[FaqEntry] = []
    problems: list[str] = []
    for path in paths:
        try:
            entries += parse_faq(path.read_text(encoding="utf-8-sig"), str(path))
        except (OSError, UnicodeDecodeError) as why:
            problems.append(f"{path}: cannot be read: {why}")
        except FaqError as why:
            problems.append(str(why))
    if problems:
        raise SettingsError("\n".join(problems))
    return entries


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Nothing made here is garbage, and looking through all of it again and again took two thirds of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
