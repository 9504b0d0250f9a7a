"""Certificates of `instances` behind https, as files beside `cluster.yaml`."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.app.speaking_tls import papers_of
from orchestrator.core.errors import SettingsError
from orchestrator.nodes.tls import Papers
from orchestrator.settings import load

ONE = "{url: 'https://gpu-1:443', model: a, ca: ca.pem, cert: ours.pem, key: ours.key}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ca.pem", "ours.pem", "ours.key"):
        (tmp_path / name).write_text("PEM")
        (tmp_path / name).chmod(0o600)
    return tmp_path


def written(folder: Path, text: str) -> Path:
    (folder / "cluster.yaml").write_text(text)
    return folder / "cluster.yaml"


def test_files_are_found_beside_the_settings_and_hold_for_every_entry_of_a_server(folder: Path) -> None:
    more = "{url: 'https://gpu-1:443', model: b}, {url: 'http://gpu-2:80'}"
    papers = papers_of(load(written(folder, f"instances: [{ONE}, {more}]")))
    assert papers == {
        ("gpu-1", 443): Papers(str(folder / "ca.pem"), str(folder / "ours.pem"), str(folder / "ours.key"))
    }


def test_a_key_that_others_may_read_is_refused(folder: Path) -> None:
    (folder / "ours.key").chmod(0o644)
    with pytest.raises(SettingsError, match=r"instances\[0\]\.key: every user of this machine may read .*chmod 600"):
        load(written(folder, f"instances: [{ONE}]"))


def test_a_file_that_is_not_there_is_named(folder: Path) -> None:
    (folder / "ca.pem").unlink()
    with pytest.raises(SettingsError, match=r"instances\[0\]\.ca: no such file: .*ca\.pem"):
        load(written(folder, f"instances: [{ONE}]"))


def test_entries_of_one_server_may_not_contradict_each_other(folder: Path) -> None:
    other = "{url: 'https://gpu-1:443', model: b, ca: ours.pem}"
    with pytest.raises(SettingsError, match=r"instances\[1\]\.ca: instances\[0\] has the same URL and says otherwise"):
        load(written(folder, f"instances: [{ONE}, {other}]"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{url: 'http://gpu-1:443', ca: ca.pem}", r"\[0\]\.ca: is of no use without https"),
        ("{url: 'https://gpu-1:443', cert: ours.pem}", r"\[0\]\.cert: is of use with `key` alone"),
        ("{url: 'https://gpu-1:443', key: ours.key}", r"\[0\]\.key: is of use with `cert` alone"),
        (f"{ONE}, {{name: b, url: 'http://gpu-1:443'}}", r"\[1\]\.url: is instances\[0\], of which one is https"),
    ],
)
def test_what_would_not_be_used_is_refused(folder: Path, text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        load(written(folder, f"instances: [{text}]"))
