"""What ends TLS before instances on this host: stunnel, its unit, whom that runs as, and the certificates.

Certificates come from outside. What is here stays while some instances may still be behind it; it goes with
the host's base.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import ssl
from pathlib import Path

from orchestrator.nodes.onhost import accounts, kept
from orchestrator.nodes.onhost.tls_text import FOLDER, USER, settings_text, unit_text
from orchestrator.nodes.onhost.work import PATH, Refused, Told, Work, ran
from orchestrator.whole_file import write_whole

PROGRAMS = ("stunnel4", "stunnel")  # as Debian has it, and as others do
UNIT = "ollama-tls@.service"
UNIT_AT = kept.UNITS + "/" + UNIT
INSTANCES = "ollama-tls@*.service"
BEHIND = "ollama@*.service"
# By it an instance that starts, at boot too, has its TLS start with it.
DROP_IN = kept.UNITS + "/" + kept.UNIT + ".d/tls.conf"
WANTS = "[Unit]\nWants=ollama-tls@%i.service\n"
AUTHORITY, HOST, CONF = FOLDER + "/authority.pem", FOLDER + "/host.pem", FOLDER + "/stunnel.conf"
# By path, the digest of what was written last: what an earlier version wrote is another text, and no damage.
WRITTEN = FOLDER + "/written.json"
COMPOSED = "/run/ollamactl-tls/"  # an instance's settings, as its stunnel was started with
TO_READ = "/run/ollamactl-tls-read"  # there while what runs has not read what was written
# In place of a certificate that is not shown: it cannot be read either.
UNREADABLE = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"
COMMENT = "TLS before Ollama instances, made by ollamactl"


def look(work: Work) -> Told:
    """The certificate that is shown now, UNREADABLE where none can be, and behind it whom it trusts; never the key.
    Nobody is trusted by what runs and has not read that yet, or where unit or settings are damaged: whoever looks after
    it comes again. '': TLS was never deployed."""
    is_whole = not work.at(TO_READ).exists() and not _damaged(work)
    trusted = (kept.text_of(work.at(AUTHORITY)) or "") if is_whole else ""
    work.more = {"certificate": _shown(work) + trusted if _is_deployed(work) else ""}
    return False, "looked at"


def _is_deployed(work: Work) -> bool:
    """Whether it was: also where a crash, or somebody, took certificates away."""
    is_there = any(work.at(each).exists() for each in (HOST, UNIT_AT, WRITTEN))
    return is_there and accounts.account(USER) is not None


def _shown(work: Work) -> str:
    """What stunnel can show: its key is its own, and that user may read it, and nobody else."""
    at, known, begin = work.at(HOST), accounts.account(USER), "-----BEGIN CERTIFICATE-----"
    text = kept.text_of(at) or ""
    if begin not in text or known is None or not _is_private(at, known.pw_uid):
        return UNREADABLE
    try:  # with a password, or it would ask for one
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(str(at), password="")
    except (OSError, ValueError):  # of OpenSSL, too
        return UNREADABLE
    return begin + text.partition(begin)[2]


def have(work: Work, authority: str, host: str | None) -> Told:
    """Everything of it. `authority`: whom it trusts; `host`: its key and certificate, None for those that are there."""
    units = _units()
    is_new = accounts.account(USER) is None
    if is_new and not work.is_dry:
        shell = ["--shell", "/usr/sbin/nologin", "--home-dir", "/nonexistent", "--no-create-home"]
        ran("useradd", "--system", "--user-group", *shell, "--comment", COMMENT, USER)
    made = [USER] if is_new else []
    made += [FOLDER] if _have_folder(work) else []
    texts = {AUTHORITY: authority, CONF: settings_text(), **({} if host is None else {HOST: host})}
    written = [path for path, text in texts.items() if _have_private(work, path, text)]
    made += written + _have_units(work, units)
    _note_written(work)
    is_reloaded = kept.reload(work) | read_anew(work)
    return bool(made) or is_reloaded, ", ".join(made) if made else UNIT


def renew(work: Work, authority: str, host: str | None) -> Told:
    """Trust these, and another key and certificate, and have unit and settings again where they are damaged; nothing
    where TLS was never deployed."""
    if not _is_deployed(work):
        return False, "none"
    damaged = _damaged(work)
    _have_folder(work)
    settings = {CONF: settings_text()} if CONF in damaged else {}
    texts = {AUTHORITY: authority, **settings, **({} if host is None else {HOST: host})}
    written = [path for path, text in texts.items() if _have_private(work, path, text)]
    if damaged:
        written += _have_units(work, {path: text for path, text in _units().items() if path in damaged})
        _note_written(work)
        kept.reload(work)
    is_read = read_anew(work, is_conf_mended=CONF in damaged)
    return bool(written) or is_read, ", ".join(written) if written else HOST


def _units() -> dict[str, str]:
    """What systemd is told, by path. Raises Refused where there is no stunnel."""
    program = next((found for each in PROGRAMS if (found := shutil.which(each, path=PATH))), None)
    if program is None:
        raise Refused(
            "there is no `stunnel` to end TLS with: `apt-get install stunnel4` there, or set `deploy.tls: false`"
        )
    return {UNIT_AT: unit_text(program), DROP_IN: WANTS}


def _have_units(work: Work, units: dict[str, str]) -> list[str]:
    """Those that were not so."""
    if not work.is_dry:
        work.at(DROP_IN).parent.mkdir(exist_ok=True)
    made = [path for path, text in units.items() if kept.have_file(work, path, text, 0o644)]
    if made and not work.is_dry:
        work.at(TO_READ).touch()
    return made


def _damaged(work: Work) -> set[str]:
    """Of unit and settings what is gone, is not what was written last, or cannot be read by whom it is for."""
    try:
        told = json.loads(kept.text_of(work.at(WRITTEN)) or "{}")
    except ValueError:
        told = {}
    written = told if isinstance(told, dict) else {}
    known, conf = accounts.account(USER), work.at(CONF)
    found = {path for path in (UNIT_AT, DROP_IN, CONF) if written.get(path, "") not in ("", _digest(work, path))}
    found |= {path for path in (UNIT_AT, DROP_IN, CONF) if not work.at(path).exists()}
    is_for_it = CONF in found or (known is not None and _is_private(conf, known.pw_uid))
    return found if is_for_it else {*found, CONF}


def _note_written(work: Work) -> None:
    if not work.is_dry:
        told = {path: _digest(work, path) for path in (UNIT_AT, DROP_IN, CONF)}
        write_whole(work.at(WRITTEN), json.dumps(told) + "\n", mode=0o600)


def _digest(work: Work, path: str) -> str:
    return hashlib.sha256((kept.text_of(work.at(path)) or "").encode()).hexdigest()


def read_anew(work: Work, *, is_conf_mended: bool = False) -> bool:
    """Have those that run show what is there now, if it was written since, with no connection closed for it; whether
    they had to. Also where an earlier run was cut off, or one of them could not be told. Those that a damaged unit kept
    from running are started; with `is_conf_mended` those that run by other settings than there are now start anew."""
    if not work.at(TO_READ).exists():
        return False
    running = ran("systemctl", "list-units", "--state=active", "--no-legend", "--plain", "--no-pager", INSTANCES)
    if work.is_dry:
        return True
    for line in running.stdout.splitlines():
        if line.strip():  # one that was stopped meanwhile reads it when it starts
            unit = line.split()[0]
            is_other = is_conf_mended and not _is_by(work, unit)
            ran("systemctl", "try-restart" if is_other else "try-reload-or-restart", unit)
    behind = ran("systemctl", "list-units", "--state=active", "--no-legend", "--plain", "--no-pager", BEHIND)
    for line in behind.stdout.splitlines():
        name, at, instance = line.strip().partition(" ")[0].partition("@")
        if at and name == BEHIND.partition("@")[0]:
            ran("systemctl", "start", f"ollama-tls@{instance}")  # nothing where it runs, or the instance has no TLS
    work.at(TO_READ).unlink()
    return True


def _is_by(work: Work, unit: str) -> bool:
    """Whether it was started with the settings that there are now."""
    instance = unit.partition("@")[2].rpartition(".service")[0]
    return (kept.text_of(work.at(f"{COMPOSED}{instance}.conf")) or "").startswith(kept.text_of(work.at(CONF)) or "")


def drop(work: Work) -> bool:
    """Nothing of it; whether there was anything. The units are stopped with their instances."""
    unit, drop_in, known = work.at(UNIT_AT), work.at(DROP_IN), accounts.account(USER)
    is_ours = known is not None and known.pw_gecos.startswith(COMMENT)
    there = [each for each in (unit, drop_in) if each.exists()]
    if work.is_dry or not (there or is_ours):
        return bool(there) or is_ours
    for each in there:
        kept.must_reload(work)
        each.unlink()
    if drop_in.parent.is_dir() and not os.listdir(str(drop_in.parent)):  # noqa: PTH208
        drop_in.parent.rmdir()
    kept.reload(work)
    work.at(TO_READ).unlink(missing_ok=True)
    if is_ours:
        ran("systemctl", "stop", INSTANCES, check=False)
        ran("userdel", USER)
    return True


def _have_folder(work: Work) -> bool:
    """Root's own: that user reads in it, and can put nothing there that root would follow."""
    at, known = work.at(FOLDER), accounts.account(USER)
    if known is not None and at.is_dir():
        so = at.stat()
        if (so.st_uid, so.st_gid, so.st_mode & 0o777) == (0, known.pw_gid, 0o750):
            return False
    if not work.is_dry:
        assert known is not None
        at.mkdir(parents=True, exist_ok=True)
        os.chown(str(at), 0, known.pw_gid)
        at.chmod(0o750)
    return True


def _have_private(work: Work, path: str, text: str) -> bool:
    """A file for that user alone; whether something was to be done."""
    at, known = work.at(path), accounts.account(USER)
    if known is not None and kept.text_of(at) == text and _is_private(at, known.pw_uid):
        return False
    if not work.is_dry:
        assert known is not None
        work.at(TO_READ).touch()
        write_whole(at, text, mode=0o600)
        os.chown(str(at), known.pw_uid, known.pw_gid)
    return True


def _is_private(at: Path, uid: int) -> bool:
    return (at.stat().st_uid, at.stat().st_mode & 0o777) == (uid, 0o600)
