"""Steps of a host's base that need no host to be tried on: whose it is, one at a time, and errors in words."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.nodes.onhost import kept, owner, work
from orchestrator.nodes.onhost.base import main
from orchestrator.nodes.onhost.work import Refused, Work, in_words


def owned(root: Path) -> dict[str, object]:
    return json.loads((root / owner.FILE.lstrip("/")).read_text())


def test_a_claim_is_kept_with_who_and_when_and_a_higher_number_replaces_it(tmp_path):
    here = Work(tmp_path)
    assert owner.claim(here, "prod", 3, "kaan@ctl", take_over=False) == (True, "prod, deployment 3")
    assert owner.claim(here, "prod", 3, "kaan@ctl", take_over=False) == (False, "prod, deployment 3")
    assert owner.claim(here, "prod", 4, "ece@ctl", take_over=False) == (True, "prod, deployment 4")
    assert {key: owned(tmp_path)[key] for key in ("place", "number", "by")} == {
        "place": "prod",
        "number": 4,
        "by": "ece@ctl",
    }
    assert str(owned(tmp_path)["at"]).endswith(" UTC")
    assert owner.hold(here, "prod", 4) == (False, "prod, deployment 4")


@pytest.mark.parametrize(("place", "number", "why"), [("prod", 3, "deployment 4 already"), ("lab", 9, "is prod's")])
def test_an_older_number_and_another_place_are_refused_and_change_nothing(tmp_path, place, number, why):
    here = Work(tmp_path)
    owner.claim(here, "prod", 4, "ece@ctl", take_over=False)
    before = owned(tmp_path)
    for act in (
        lambda: owner.claim(here, place, number, "x", take_over=False),
        lambda: owner.hold(here, place, number),
    ):
        with pytest.raises(Refused, match=why) as refused:
            act()
        assert "ece@ctl at 20" in str(refused.value)
    assert owned(tmp_path) == before
    owner.claim(here, place, number, "x", take_over=True)
    assert (owned(tmp_path)["place"], owned(tmp_path)["number"]) == (place, number)


def test_a_controllers_token_from_far_ahead_keeps_no_later_controller_out(tmp_path):
    here, now = Work(tmp_path), int(time.time() * 1000)
    owner.claim(here, "prod", 1, "x", take_over=False)
    assert owner.hold(here, "prod", 1, now - 9)[0]
    for made_up in (now + 10 * owner.AHEAD_MS, 10**15):
        assert not owner.hold(here, "prod", 1, made_up)[0]
    with pytest.raises(Refused, match="another controller leads"):
        owner.hold(here, "prod", 1, now - 10)
    assert owner.hold(here, "prod", 1, now)[0]
    path = tmp_path / owner.FILE.lstrip("/")
    path.write_text(json.dumps({**owned(tmp_path), "leader": 10**15}))  # by a version that remembered it
    assert owner.hold(here, "prod", 1, now + 1)[0]
    assert owned(tmp_path)["leader"] == now + 1


@pytest.mark.parametrize("spoilt", ["", "{}", "[1]", '{"place": "prod", "number": "x", "by": "", "at": ""}'])
def test_a_file_that_says_no_owner_is_told_and_can_be_taken_over(tmp_path, spoilt):
    path = tmp_path / owner.FILE.lstrip("/")
    path.parent.mkdir(parents=True)
    path.write_text(spoilt)
    with pytest.raises(Refused, match="does not say whose this host is; remove it, or deploy with `--take-over`"):
        owner.claim(Work(tmp_path), "prod", 1, "x", take_over=False)
    owner.claim(Work(tmp_path), "prod", 1, "x", take_over=True)
    assert owned(tmp_path)["place"] == "prod"


def test_a_host_that_was_destroyed_meanwhile_is_nobodys(tmp_path):
    with pytest.raises(Refused, match="nobody's any more"):
        owner.hold(Work(tmp_path), "prod", 1)


def test_a_host_without_systemd_is_refused_with_what_it_has(tmp_path):
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/comm").write_text("runit\n")
    with pytest.raises(Refused, match="process 1 is `runit`, not systemd"):
        kept.check_system(Work(tmp_path))
    (tmp_path / "proc/1/comm").write_text("systemd\n")
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert kept.check_system(Work(tmp_path)) == (False, "systemd")


def test_a_run_that_another_one_keeps_waiting_is_told_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(work, "LOCK_WAIT_S", 0.05)
    (tmp_path / "run").mkdir()
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "file.write('4242'); file.flush(); print('held', flush=True); sys.stdin.read()"
    )
    lock = str(tmp_path / work.LOCK)
    with subprocess.Popen(
        [sys.executable, "-c", hold, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        claim = {"do": "claim", "place": "prod", "number": 1, "by": "x", "take_over": False}
        asked = {"root": str(tmp_path), "is_dry": False, "is_alone": True, "steps": [claim]}
        main(asked)
        told = json.loads(capsys.readouterr().out)
        assert told["error"].startswith("another deploy is at work there (process 4242)")
        other.communicate()
    main(asked)
    assert json.loads(capsys.readouterr().out)["is_changed"]


def test_errors_of_the_system_say_what_to_do():
    full = OSError(errno.ENOSPC, "No space left on device", "/opt/ollamactl/x")
    assert in_words(full) == "the disk is full at /opt/ollamactl/x: make room there and run this again"
    assert in_words(OSError(errno.EROFS, "Read-only file system", "/opt/x")) == "Read-only file system at /opt/x"
