"""A file is written whole or not at all, and once it is written a crash of the machine does not undo it."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app import call_log
from orchestrator.app.archive import Manifest, Member, write
from orchestrator.whole_file import have_last, write_once, write_whole


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What the system is asked for, in order, with the names of files and folders; it does each."""
    said: list[tuple[str, ...]] = []

    def played(name: str) -> Any:
        real = getattr(os, name)

        def call(*args: Any, **more: Any) -> Any:
            names = (Path(f"/proc/self/fd/{each}").readlink() if isinstance(each, int) else Path(each) for each in args)
            said.append((name, *(each.name for each in names)))
            return real(*args, **more)

        return call

    for each in ("fsync", "replace", "link", "unlink"):
        monkeypatch.setattr(os, each, played(each))
    return said


def test_the_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_it_counts_as_written(
    tmp_path: Path, calls: list[tuple[str, ...]]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    write_whole(tmp_path / "link", "text")
    beside = calls[0][1]
    assert beside.startswith(".file-")
    assert calls == [("fsync", beside), ("replace", beside, "file"), ("fsync", "there")]


def test_who_finds_a_file_that_is_written_once_waits_for_its_name_too(
    tmp_path: Path, calls: list[tuple[str, ...]]
) -> None:
    for is_first in (True, False):
        calls.clear()
        assert write_once(tmp_path / "secret", "text", mode=0o600) == is_first
        beside = calls[0][1]
        names = [("fsync", beside), ("link", beside, "secret"), ("unlink", beside), ("fsync", tmp_path.name)]
        assert calls == names


def test_a_backup_that_was_told_of_is_there_after_a_crash(tmp_path: Path, calls: list[tuple[str, ...]]) -> None:
    write(tmp_path / "backup", [Member("kept", b"text")], Manifest(1, "0", 0, "here", "/state", {}), None)
    beside = calls[-4][1]
    names = [("fsync", beside), ("link", beside, "backup"), ("unlink", beside), ("fsync", tmp_path.name)]
    assert calls[-4:] == names


def test_records_are_on_the_disk_in_one_file_before_they_are_removed_from_another(
    tmp_path: Path, calls: list[tuple[str, ...]]
) -> None:
    day = tmp_path / "2026-01-02"
    day.mkdir()
    (day / "03-gw0-1.jsonl").write_text("{}\n")
    call_log.pack(tmp_path, datetime(2026, 1, 2, 5, tzinfo=UTC))
    first, second = "03.new", "03.parquet"
    asked = [("fsync", first), ("replace", first, second), ("fsync", day.name), ("unlink", "03-gw0-1.jsonl")]
    assert [each for each in calls if ".tmp" not in each[1]] == asked


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_keep_a_folder_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    have_last(tmp_path)


def test_a_disk_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def fail(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_whole(tmp_path / "file", "text")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_new_file_is_readable_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_text("before")
    old.chmod(0o640)
    for each in (new, old):
        write_whole(each, "line\r\nğ\n")
        assert each.read_bytes() == "line\r\nğ\n".encode()
    assert (new.stat().st_mode & 0o777, old.stat().st_mode & 0o777) == (0o644, 0o640)
    write_whole(old, "secret", mode=0o600)
    assert old.stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("before")
    (tmp_path / "link").symlink_to("there/file")
    write_whole(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_text() == "after"


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", "after")
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"file": "before"}


def test_a_file_written_once_is_not_there_until_all_of_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen, fsync = tmp_path / "secret", [], os.fsync

    def look(handle: int) -> None:
        fsync(handle)
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            return
        seen.append((path.exists(), os.fstat(handle).st_size, stat.S_IMODE(os.fstat(handle).st_mode)))

    monkeypatch.setattr(os, "fsync", look)
    assert write_once(path, b"first", mode=0o600)
    assert not write_once(path, b"second", mode=0o600)
    assert seen == [(False, 5, 0o600), (True, 6, 0o600)]
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"secret": b"first"}


def test_of_many_who_write_once_one_does(tmp_path: Path) -> None:
    path = tmp_path / "secret"

    def write(number: int) -> tuple[bool, bytes]:
        return write_once(path, f"{number:032}", mode=0o600), path.read_bytes()

    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(write, range(64)))
    assert [is_mine for is_mine, _ in told].count(True) == 1
    assert {data for _, data in told} == {path.read_bytes()}
