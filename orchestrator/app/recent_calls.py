"""The last calls of the request log, read from the lines of the hours that run: what the page shows behind a number."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

# Of each worker's last files; a page asks for some fifty calls, not for history (`ollamactl calls` does).
TAIL_BYTES: Final = 1_000_000
FILES: Final = 16


async def recent_calls(folder: Path, having: Mapping[str, str], failed: bool, at_most: int) -> list[dict[str, Any]]:
    """Those with these values, the newest first; `failed`: which were not answered."""
    return await asyncio.to_thread(_recent, folder, having, failed, at_most)


def _recent(folder: Path, having: Mapping[str, str], failed: bool, at_most: int) -> list[dict[str, Any]]:
    files = heapq.nlargest(FILES, folder.glob("*/*.jsonl"), key=lambda each: (each.parent.name, each.name[:2]))
    calls = (call for each in files for call in _last_of(each))
    meant = (
        call
        for call in calls
        if all(str(call.get(name)) == value for name, value in having.items())
        and not (failed and call["outcome"] == "ok")
    )
    return heapq.nlargest(at_most, meant, key=lambda call: int(call["at_ms"]))


def _last_of(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as lines:
            size = lines.seek(0, 2)
            lines.seek(max(0, size - TAIL_BYTES))
            whole = lines.read().split(b"\n")
    except FileNotFoundError:
        return  # packed just now
    # Behind the last newline is nothing, or half a line; before the first of a tail, the end of one.
    for line in whole[1 if size > TAIL_BYTES else 0 : -1]:
        yield orjson.loads(line)
