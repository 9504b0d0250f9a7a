"""The request log on disk: lines of the hour that runs, Parquet of those before; read, packed and forgotten here.

`python -m orchestrator.app.call_log STATE` packs what has come to rest and forgets what is too old or too much. The
controller has it run as a process of its own (`packing`). Packing again after a crash changes nothing: a record that is
in two files is one.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import Any, Final

import click
import duckdb

from orchestrator import logs
from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.core.call_record import TYPES
from orchestrator.core.errors import HostError, OrchestratorError
from orchestrator.whole_file import have_last

log = logging.getLogger(__name__)

# Writers name a file by the hour in which they write: so long after its end nobody does any more.
AT_REST_AFTER: Final = timedelta(minutes=5)
MEMORY: Final = "512MB"
_LINES, _PACKED = ".jsonl", ".parquet"


def opened(folder: Path, since: datetime | None = None, until: datetime | None = None) -> duckdb.DuckDBPyConnection:
    """A database with the view `calls` of every record that came between two moments. Raises HostError: none was."""
    files = [each for each in _files(folder) if _may_hold(each, folder, since, until)]
    if not files:
        raise HostError(f"{folder}: has no records of calls{' of that time' if since or until else ''}")
    database = duckdb.connect(config={"memory_limit": MEMORY})
    calls = _records(database, files).distinct()
    for sign, at in ((">=", since), ("<", until)):
        if at is not None:
            calls = calls.filter(f"at_ms {sign} {int(at.timestamp() * 1e3)}")
    calls.create_view("calls")
    return database


def rows_of(database: duckdb.DuckDBPyConnection, query: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """What a query answers, by column. Raises HostError where DuckDB says no."""
    try:
        database.execute(query, list(values))  # returns nothing for a query of blanks and comments alone
        names = [each[0] for each in database.description or ()]
        return [dict(zip(names, row, strict=True)) for row in database.fetchall()]
    except duckdb.Error as why:
        raise HostError(f"the request log: {why}") from why


def pack(folder: Path, now: datetime) -> None:
    """Pack each hour that has come to rest, and each day that is over, into one file. Raises OSError, duckdb.Error."""
    for day in sorted(each for each in folder.glob("????-??-??") if each.is_dir()):
        hours: dict[str, list[Path]] = defaultdict(list)
        for each in day.iterdir():
            if each.suffix in (_LINES, _PACKED):
                hours[each.stem[:2]].append(each)
        for hour, files in hours.items():
            if _end_of(f"{day.name}T{hour}", timedelta(hours=1)) + AT_REST_AFTER <= now:
                _fold(files, day / f"{hour}{_PACKED}")
        if _end_of(day.name, timedelta(days=1)) + AT_REST_AFTER <= now:
            whole = folder / f"{day.name}{_PACKED}"
            _fold([*day.glob(f"*{_PACKED}"), *([whole] if whole.exists() else ())], whole)
            shutil.rmtree(day)


def forget(folder: Path, today: date, keep_days: int, max_bytes: int) -> list[str]:
    """Remove the oldest days that are too old, or more than there is room for; today's stay. What went, for people."""
    days = sorted((each for each in folder.glob("????-??-??*")), key=lambda each: each.name, reverse=True)
    oldest, room, gone = (today - timedelta(days=keep_days)).isoformat(), max_bytes, []
    for each in days:
        room -= _bytes_of(each)
        day = each.name[:10]
        if day < today.isoformat() and (day < oldest or room < 0):
            shutil.rmtree(each) if each.is_dir() else each.unlink()
            gone.append(f"{day}: {'older than the settings keep' if day < oldest else 'no room for it'}")
    return gone


def _fold(sources: Iterable[Path], target: Path) -> None:
    """All records of some files in one, each once; then the files are gone."""
    sources = sorted(sources)
    if sources == [target]:
        return
    unfinished = target.with_suffix(".new")
    with duckdb.connect(config={"memory_limit": MEMORY, "threads": 1}) as database:
        lines = [each for each in sources if each.suffix == _LINES]
        if lost := sum(map(_line_count, lines)) - _count(database, lines):
            log.warning("%s: %d lines are no records, and are left out", target, lost)
        records = _records(database, sources).distinct().order("at_ms")
        records.write_parquet(str(unfinished), compression="zstd")
    with unfinished.open("rb") as file:
        os.fchmod(file.fileno(), 0o600)
        os.fsync(file.fileno())
    unfinished.replace(target)
    have_last(target.parent)  # before the only other copy goes
    for each in sources:
        if each != target:
            each.unlink()


def _records(database: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> duckdb.DuckDBPyRelation:
    packed = [str(each) for each in files if each.suffix == _PACKED]
    lines: Any = [str(each) for each in files if each.suffix == _LINES]  # its stubs know no lists
    parts = []
    if packed:
        read = database.read_parquet(packed, union_by_name=True)
        # Files of before a field was kept do not have it.
        fields = (name if name in read.columns else f"NULL::{kind} AS {name}" for name, kind in TYPES.items())
        parts.append(read.project(", ".join(fields)))
    if lines:  # half a one, which is still being written, lacks its last fields, and is read the next time
        read = database.read_json(lines, columns=TYPES, format="newline_delimited", ignore_errors=True)
        parts.append(read.select(*TYPES).filter("simulated IS NOT NULL"))
    return reduce(lambda all_of, more: all_of.union(more), parts)


def _count(database: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> int:
    if not files:
        return 0
    _records(database, files).create_view("lines")
    return int(rows_of(database, "SELECT count(*) AS n FROM lines")[0]["n"])


def _line_count(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for _ in lines)


def _files(folder: Path) -> list[Path]:
    both = (each for each in folder.rglob("*") if each.suffix in (_LINES, _PACKED))
    return sorted(each for each in both if each.stat().st_size)


def _may_hold(file: Path, folder: Path, since: datetime | None, until: datetime | None) -> bool:
    """Whether a file may have records of the time, by its day; a call may have come the day before it ended."""
    day = file.relative_to(folder).parts[0][:10]
    begins = datetime.fromisoformat(day).replace(tzinfo=UTC)
    return (since is None or begins + timedelta(days=1) > since) and (
        until is None or begins - timedelta(days=1) < until
    )


def _end_of(begin: str, length: timedelta) -> datetime:
    return datetime.fromisoformat(begin).replace(tzinfo=UTC) + length


def _bytes_of(path: Path) -> int:
    files: Callable[[], Iterable[Path]] = path.iterdir if path.is_dir() else lambda: (path,)
    return sum(each.stat().st_size for each in files())


@click.command()
@click.argument("state", type=click.Path(path_type=Path))
def main(state: Path) -> None:
    """Pack the request log of a state folder once."""
    logs.log_to_stderr("call-log")
    os.nice(10)
    paths, now = StatePaths(state), datetime.now(UTC)
    try:
        kept = settings_in_use.read(paths).request_log
        pack(paths.calls, now)
        for line in forget(paths.calls, now.date(), kept.keep_days, kept.max_bytes):
            log.info("forgotten: %s", line)
    except (OSError, duckdb.Error, OrchestratorError) as why:
        log.error("the request log is not packed: %s", why)
        sys.exit(1)


if __name__ == "__main__":
    main()
