"""TLS of a host whose certificates are renewed: what runs reads what was written, sooner or later."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.core.certificates import Held
from orchestrator.nodes.authorities import Authorities
from orchestrator.nodes.authority import held_in
from orchestrator.nodes.onhost import accounts, kept, tls
from orchestrator.nodes.onhost.work import Refused, Work

NOW = int(time.time())
RUNNING = ("ollama-tls@a.service", "ollama-tls@b.service")
OLD = Authorities.made(NOW)
BOTH = OLD.begun(NOW).followed()


class Systemd:
    """Two units that run, and those that have read what there is. `why`: what ends the run that tells one of them."""

    def __init__(self) -> None:
        self.why: dict[str, BaseException] = {}
        self.read: list[str] = []

    def ran(self, *argv: str, given: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        said = ""
        match argv:
            case ("systemctl", "list-units", *_):
                said = "".join(f"{each} loaded active running TLS\n" for each in RUNNING)
            case ("systemctl", "reload" | "try-reload-or-restart", unit):
                if unit in self.why:
                    raise self.why.pop(unit)
                self.read.append(unit)
        return subprocess.CompletedProcess(argv, 0, said, "")


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Systemd:
    played = Systemd()
    monkeypatch.setattr(tls, "ran", played.ran)
    monkeypatch.setattr(kept, "ran", played.ran)
    return played


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """One that TLS was deployed to, with the old authority; its user is whoever runs this."""
    user = SimpleNamespace(pw_uid=os.getuid(), pw_gid=os.getgid(), pw_gecos=tls.COMMENT)
    monkeypatch.setattr(accounts, "account", lambda name: user)
    for folder in ("run", tls.FOLDER.lstrip("/"), kept.UNITS.lstrip("/")):
        (tmp_path / folder).mkdir(parents=True)
    here = Work(tmp_path)
    for path, text in ((tls.AUTHORITY, OLD.trusted), (tls.HOST, OLD.signs.for_host(["gpu-1"], NOW))):
        here.at(path).write_text(text)
        here.at(path).chmod(0o600)
    return here


def looked(host: Work) -> Held | None:
    """What a controller sees of it."""
    assert tls.look(host) == (False, "looked at")
    return held_in(host.more["certificate"])


@pytest.mark.parametrize("unit", RUNNING)
@pytest.mark.parametrize("why", [Refused("Job for it failed."), KeyboardInterrupt()], ids=["failed", "cut off"])
def test_what_was_not_read_is_said_not_to_be_trusted_and_read_at_the_next_renewal(
    host: Work, systemd: Systemd, unit: str, why: BaseException
) -> None:
    assert looked(host) == OLD.held
    systemd.why[unit] = why
    pem = BOTH.signs.for_host(["gpu-1"], NOW)
    with pytest.raises(type(why)):
        tls.renew(host, BOTH.trusted, pem)
    assert looked(host) == Held(BOTH.signs.id, frozenset())
    systemd.read.clear()
    assert tls.renew(host, BOTH.trusted, pem)[0], "what is written is the same, what runs is not"
    assert systemd.read == list(RUNNING)
    assert looked(host) == BOTH.held


def test_what_was_read_is_read_no_second_time(host: Work, systemd: Systemd) -> None:
    pem = BOTH.signs.for_host(["gpu-1"], NOW)
    assert tls.renew(host, BOTH.trusted, pem)[0]
    assert systemd.read == list(RUNNING)
    assert tls.renew(host, BOTH.trusted, None) == (False, tls.HOST)
    assert systemd.read == list(RUNNING)


def test_a_run_that_only_looks_leaves_what_is_to_be_read_to_be_read(host: Work, systemd: Systemd) -> None:
    systemd.why[RUNNING[0]] = Refused("Job for it failed.")
    with pytest.raises(Refused):
        tls.renew(host, BOTH.trusted, None)
    assert tls.renew(Work(host.root, is_dry=True), BOTH.trusted, None)[0]
    assert systemd.read == []
    assert tls.renew(host, BOTH.trusted, None)[0]
    assert systemd.read == list(RUNNING)


def test_nothing_of_it_is_left_to_be_read_once_it_is_gone(host: Work, systemd: Systemd) -> None:
    systemd.why[RUNNING[0]] = Refused("Job for it failed.")
    with pytest.raises(Refused):
        tls.renew(host, BOTH.trusted, None)
    kept.have_file(host, f"{kept.UNITS}/{tls.UNIT}", "[Unit]\n", 0o644)
    host.at(tls.DROP_IN).parent.mkdir()
    assert tls.drop(host)
    assert list(host.at("/run").iterdir()) == []
