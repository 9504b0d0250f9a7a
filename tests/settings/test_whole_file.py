"""A file is written whole or not at all."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.whole_file import write_once, write_whole


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
