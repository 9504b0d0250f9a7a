"""The request log on disk: what is packed, what is read of it at any time, and what is forgotten."""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.app import call_log
from orchestrator.core.call_record import TYPES, CallRecord
from orchestrator.core.errors import HostError

DAY = datetime(2026, 11, 19, tzinfo=UTC)
RANDOM = random.Random(7)


def record(at: datetime, **changes: object) -> CallRecord:
    """A call that was answered."""
    made = CallRecord(
        at_ms=int(at.timestamp() * 1e3), id=f"{RANDOM.getrandbits(64):x}", caller="ops", agent="curl/8", session="",
        path="/api/chat", model="auto", tier="small", instance="small-0", cache="miss", why="absent", outcome="ok",
        status=200, stream=True, prompt_tokens=40, completion_tokens=20, reasoning_tokens=None, cached_tokens=0,
        queue_ms=1.0, wait_ms=200.0, overhead_ms=0.5, first_byte_ms=201.5, total_ms=900.0, failures=0, escalated="",
        usd=0.0, simulated=False,
    )  # fmt: skip
    return made._replace(**changes)  # type: ignore[arg-type]


def written(folder: Path, hour: datetime, records: list[CallRecord], writer: str = "gw0-1") -> Path:
    """What a gateway leaves of an hour."""
    path = folder / hour.strftime(f"%Y-%m-%d/%H-{writer}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each._asdict()) + "\n" for each in records))
    return path


def ids(folder: Path, **bounds: datetime) -> list[str]:
    with call_log.opened(folder, **bounds) as database:
        return [each["id"] for each in call_log.rows_of(database, "SELECT id FROM calls ORDER BY at_ms, id")]


def test_every_record_is_read_before_packing_and_after_it_hour_by_hour_and_as_a_day(tmp_path):
    calls = [record(DAY + timedelta(hours=n // 5, minutes=n)) for n in range(20)]
    for hour in range(4):
        written(tmp_path, DAY + timedelta(hours=hour), calls[hour * 5 : hour * 5 + 5])
    before = ids(tmp_path)
    call_log.pack(tmp_path, DAY + timedelta(hours=2, minutes=6))
    assert sorted(each.name for each in (tmp_path / "2026-11-19").iterdir()) == [
        "00.parquet", "01.parquet", "02-gw0-1.jsonl", "03-gw0-1.jsonl",
    ]  # fmt: skip
    assert ids(tmp_path) == before
    call_log.pack(tmp_path, DAY + timedelta(days=1, minutes=6))
    assert [each.name for each in tmp_path.iterdir()] == ["2026-11-19.parquet"]
    assert ids(tmp_path) == before == [each.id for each in sorted(calls, key=lambda one: (one.at_ms, one.id))]


def test_every_field_comes_back_as_it_was(tmp_path):
    told = record(DAY, reasoning_tokens=3, usd=0.25, simulated=True, escalated="confidence .4", agent='"a, b"\\')
    written(tmp_path, DAY, [told])
    call_log.pack(tmp_path, DAY + timedelta(days=2))
    with call_log.opened(tmp_path) as database:
        (row,) = call_log.rows_of(database, "SELECT * FROM calls")
    assert row == told._asdict()
    assert tuple(row) == tuple(TYPES)


def test_packing_again_after_a_crash_makes_no_record_two(tmp_path):
    calls = [record(DAY + timedelta(minutes=n)) for n in range(5)]
    lines = written(tmp_path, DAY, calls)
    kept = lines.read_bytes()
    call_log.pack(tmp_path, DAY + timedelta(hours=2))
    lines.write_bytes(kept)  # packed, and killed before the lines were removed
    assert len(ids(tmp_path)) == 5
    call_log.pack(tmp_path, DAY + timedelta(hours=2))
    assert not lines.exists()
    call_log.pack(tmp_path, DAY + timedelta(days=2))
    again = written(tmp_path, DAY, calls[:2])
    call_log.pack(tmp_path, DAY + timedelta(days=2))
    assert not again.parent.exists()
    assert len(ids(tmp_path)) == 5


def test_a_line_that_is_being_written_hides_no_other_and_a_broken_one_is_told_of(tmp_path, caplog):
    lines = written(tmp_path, DAY, [record(DAY), record(DAY + timedelta(seconds=1))])
    with lines.open("a") as more:
        more.write('{"at_ms": 17, "id": "ha')
    assert len(ids(tmp_path)) == 2
    call_log.pack(tmp_path, DAY + timedelta(days=1, hours=1))
    assert len(ids(tmp_path)) == 2
    assert "1 lines are no records" in caplog.text


def test_a_period_holds_what_came_in_it_whatever_day_it_ended_on(tmp_path):
    late = record(DAY - timedelta(seconds=2))  # came before midnight, ended after it
    written(tmp_path, DAY, [late, record(DAY + timedelta(hours=1))])
    assert ids(tmp_path, until=DAY) == [late.id]
    assert ids(tmp_path, since=DAY - timedelta(minutes=1), until=DAY) == [late.id]
    with pytest.raises(HostError, match="has no records of calls of that time"):
        ids(tmp_path, since=DAY + timedelta(days=9))


def test_days_that_are_too_old_or_too_much_go_and_todays_stays(tmp_path):
    for back in range(4):
        at = DAY - timedelta(days=back)
        written(tmp_path, at, [record(at + timedelta(minutes=n)) for n in range(50)])
    call_log.pack(tmp_path, DAY + timedelta(hours=3))
    today: date = DAY.date()
    assert call_log.forget(tmp_path, today, 30, 2**30) == []
    assert call_log.forget(tmp_path, today, 2, 2**30) == ["2026-11-16: older than the settings keep"]
    assert len(call_log.forget(tmp_path, today, 30, 1)) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["2026-11-19"]


def test_what_duckdb_does_not_understand_is_said_without_a_traceback(tmp_path):
    written(tmp_path, DAY, [record(DAY)])
    with call_log.opened(tmp_path) as database, pytest.raises(HostError, match="the request log: "):
        call_log.rows_of(database, "SELECT nothing FROM calls")
