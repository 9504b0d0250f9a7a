"""TLS of a host whose certificates are renewed: what runs reads what was written, sooner or later."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from orchestrator.core.certificates import Held
from orchestrator.nodes.authorities import Authorities
from orchestrator.nodes.authority import held_in, read_certificate
from orchestrator.nodes.onhost import accounts, kept, tls
from orchestrator.nodes.onhost.tls_text import settings_text
from orchestrator.nodes.onhost.work import Refused, Work

NOW = int(time.time())
RUNNING = ("ollama-tls@a.service", "ollama-tls@b.service")
BEHIND = ("ollama@a.service", "ollama@b.service", "ollama@c.service")
OLD = Authorities.made(NOW)
BOTH = OLD.begun(NOW).followed()


class Systemd:
    """Two units that run, and those that have read what there is. `why`: what ends the run that tells one of them."""

    def __init__(self) -> None:
        self.why: dict[str, BaseException] = {}
        self.read: list[str] = []
        self.told: list[tuple[str, ...]] = []

    def ran(self, *argv: str, given: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        said = ""
        match argv:
            case ("systemctl", "list-units", *_, pattern):
                those = RUNNING if pattern == tls.INSTANCES else BEHIND
                said = "".join(f"{each} loaded active running an Ollama instance\n" for each in those)
            case ("systemctl", "reload" | "try-reload-or-restart", unit):
                if unit in self.why:
                    raise self.why.pop(unit)
                self.read.append(unit)
            case ("systemctl", *words):
                self.told.append(tuple(words))
        return subprocess.CompletedProcess(argv, 0, said, "")

    def forget(self) -> None:
        self.read.clear()
        self.told.clear()


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Systemd:
    played = Systemd()
    monkeypatch.setattr(tls, "ran", played.ran)
    monkeypatch.setattr(kept, "ran", played.ran)
    return played


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, systemd: Systemd) -> Work:
    """One that TLS was deployed to, with the old authority; its user is whoever runs this."""
    user = SimpleNamespace(pw_uid=os.getuid(), pw_gid=os.getgid(), pw_gecos=tls.COMMENT)
    monkeypatch.setattr(accounts, "account", lambda name: user)
    monkeypatch.setattr(tls.shutil, "which", lambda name, path: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "chown", lambda *_: None)
    for folder in ("run/ollamactl-tls", tls.FOLDER.lstrip("/"), kept.UNITS.lstrip("/")):
        (tmp_path / folder).mkdir(parents=True)
    here = Work(tmp_path)
    assert tls.have(here, OLD.trusted, OLD.signs.for_host(["gpu-1"], NOW))[0]
    for each in "ab":
        here.at(f"{tls.COMPOSED}{each}.conf").write_text(f"{settings_text()}accept = 127.0.0.1:1\n")
    systemd.forget()
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


KEY = "-----BEGIN PRIVATE KEY-----"


def encrypted(pem: str) -> str:
    """The same with a password before its key, which would be asked for."""
    key, end = load_pem_private_key(pem.encode(), None), "-----END PRIVATE KEY-----\n"
    closed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    return closed.decode() + pem.partition(end)[2]


DAMAGED: dict[str, Callable[[Path], object]] = {
    "gone": lambda at: at.unlink(),
    "its folder, too": lambda at: shutil.rmtree(at.parent),
    "empty": lambda at: at.write_bytes(b""),
    "no text": lambda at: at.write_bytes(bytes(range(256)) * 8),
    "no key": lambda at: at.write_text(at.read_text().partition("-----END PRIVATE KEY-----\n")[2]),
    "a damaged key": lambda at: at.write_text(at.read_text().replace(f"{KEY}\nMIG", f"{KEY}\nAAA")),
    "an encrypted key": lambda at: at.write_text(encrypted(at.read_text())),
    "another's key": lambda at: at.write_text(
        OLD.signs.for_host(["gpu-1"], NOW).partition("-----BEGIN C")[0] + "-----BEGIN C"
        + at.read_text().partition("-----BEGIN C")[2]
    ),
    "a cut certificate": lambda at: at.write_text(at.read_text()[:-200]),
    "open to all": lambda at: at.chmod(0o644),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_what_cannot_be_shown_any_more_is_seen_as_unreadable_and_mended(
    host: Work, systemd: Systemd, damage: Callable[[Path], object]
) -> None:
    assert looked(host) == OLD.held
    damage(host.at(tls.HOST))
    tls.look(host)
    assert host.more["certificate"]
    assert read_certificate(host.more["certificate"]) is None
    pem = OLD.signs.for_host(["gpu-1"], NOW)
    assert tls.renew(host, OLD.trusted, pem)[0]
    assert looked(host) == OLD.held
    assert systemd.read == list(RUNNING)
    assert host.at(tls.HOST).read_text() == pem
    assert host.at(tls.CONF).read_text() == settings_text()


UNITS_AND_SETTINGS = (tls.CONF, tls.UNIT_AT, tls.DROP_IN)
CHANGED: dict[str, Callable[[Path], object]] = {
    "gone": lambda at: at.unlink(),
    "empty": lambda at: at.write_bytes(b""),
    "no text": lambda at: at.write_bytes(bytes(range(256)) * 8),
    "cut": lambda at: at.write_text(at.read_text()[:-20]),
}


@pytest.mark.parametrize("path", UNITS_AND_SETTINGS)
@pytest.mark.parametrize("damage", CHANGED.values(), ids=CHANGED)
def test_a_damaged_unit_or_settings_are_seen_and_mended_and_what_did_not_run_for_it_is_started(
    host: Work, systemd: Systemd, path: str, damage: Callable[[Path], object]
) -> None:
    assert looked(host) == OLD.held
    whole = host.at(path).read_text()
    damage(host.at(path))
    assert looked(host) == Held(OLD.signs.id, frozenset()), "so whoever looks after it comes again"
    assert tls.renew(Work(host.root, is_dry=True), OLD.trusted, None)[0]
    assert systemd.told == []
    assert tls.renew(host, OLD.trusted, None) == (True, path)
    assert host.at(path).read_text() == whole
    assert looked(host) == OLD.held
    assert (("daemon-reload",) in systemd.told) is (path != tls.CONF)
    started = [each[1] for each in systemd.told if each[0] == "start"]
    assert started == [f"ollama-tls@{each}.service" for each in "abc"]
    systemd.forget()
    assert tls.renew(host, OLD.trusted, None) == (False, tls.HOST)
    assert systemd.told == []


def test_settings_that_stunnel_may_not_read_are_mended(host: Work, systemd: Systemd) -> None:
    host.at(tls.CONF).chmod(0o400)
    assert looked(host) == Held(OLD.signs.id, frozenset())
    assert tls.renew(host, OLD.trusted, None) == (True, tls.CONF)
    assert looked(host) == OLD.held


def test_of_those_that_run_only_those_start_anew_that_run_by_damaged_settings(host: Work, systemd: Systemd) -> None:
    composed = host.at(f"{tls.COMPOSED}b.conf")
    composed.write_text(composed.read_text().replace("requireCert = yes", ""))
    host.at(tls.CONF).write_text("")
    assert tls.renew(host, OLD.trusted, None)[0]
    assert systemd.read == ["ollama-tls@a.service"]
    assert ("try-restart", "ollama-tls@b.service") in systemd.told


def test_what_an_earlier_version_wrote_is_no_damage(
    host: Work, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "settings_text", lambda: "; of a later version\n")
    monkeypatch.setattr(tls, "unit_text", lambda program: "# of a later version\n")
    assert looked(host) == OLD.held
    assert tls.renew(host, OLD.trusted, None) == (False, tls.HOST)
    host.at(tls.WRITTEN).unlink()  # as it left none of these
    assert looked(host) == OLD.held
    assert tls.have(host, OLD.trusted, None)[0]
    assert looked(host) == OLD.held
    assert host.at(tls.CONF).read_text() == "; of a later version\n"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"/etc": 1}'])
def test_where_nobody_can_tell_what_was_written_only_what_is_gone_is_damage(
    host: Work, systemd: Systemd, text: str
) -> None:
    host.at(tls.WRITTEN).write_text(text)
    assert looked(host) == OLD.held
    host.at(tls.UNIT_AT).unlink()
    assert tls.renew(host, OLD.trusted, None) == (True, tls.UNIT_AT)
    assert looked(host) == OLD.held


def test_where_tls_was_never_deployed_there_is_nothing_to_be_mended(host: Work, systemd: Systemd) -> None:
    for each in (tls.HOST, tls.UNIT_AT, tls.WRITTEN):
        host.at(each).unlink()
    tls.look(host)
    assert host.more["certificate"] == ""
    assert tls.renew(host, OLD.trusted, OLD.signs.for_host(["gpu-1"], NOW)) == (False, "none")
    assert not host.at(tls.HOST).exists()


def test_nothing_of_it_is_left_to_be_read_once_it_is_gone(host: Work, systemd: Systemd) -> None:
    systemd.why[RUNNING[0]] = Refused("Job for it failed.")
    with pytest.raises(Refused):
        tls.renew(host, BOTH.trusted, None)
    assert tls.drop(host)
    assert [each.name for each in host.at("/run").iterdir()] == ["ollamactl-tls"], "it is systemd's own"
