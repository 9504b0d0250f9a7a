"""Ollama's program on a host: made of what was received, tried, and made the one that instances start from.

A version lies in a folder named for its digest, which is there whole or not at all: it is filled beside its place and
renamed. `current` is a link that changes in one step.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Iterable

from orchestrator.nodes.onhost import accounts
from orchestrator.nodes.onhost.archive import PROGRAM, UnfitArchive, take_out, to_disk
from orchestrator.nodes.onhost.receiving import INCOMING, is_locked
from orchestrator.nodes.onhost.work import PATH, Refused, Told, Work

VERSIONS = "/opt/ollamactl/ollama"
CURRENT = "current"
OF_PATH = "path"  # the version that is the host's own
OLD_ONES = 2  # versions kept beside the current one
TRY_S = 30.0
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*")
_FOLDER = re.compile(r"[0-9a-f]{16}")


def folder_of(digest: str) -> str:
    return digest[:16]


def look(work: Work, digest: str) -> Told:
    """Whether this version is here and current; `has_it` tells whether it must be sent."""
    work.more["has_it"] = (work.at(VERSIONS) / folder_of(digest) / PROGRAM).exists()
    is_current = _now(work) == folder_of(digest)
    return not (work.more["has_it"] and is_current), f"{folder_of(digest)}{' is current' if is_current else ''}"


def install(work: Work, digest: str, user: str, sent: str = "", is_archive: bool = False) -> Told:
    """The version made of what was received as `sent`, if it is not here yet, tried as `user`; and made current."""
    place = work.at(VERSIONS) / folder_of(digest)
    is_new = not (place / PROGRAM).exists()
    words = folder_of(digest)
    if is_new:
        words = f"{_unpack(work, sent, place, user, is_archive)} ({words})"
    is_changed = _switch(work, folder_of(digest)) or is_new
    _tidy(work, sent)
    return is_changed, words


def link_own(work: Work, user: str) -> Told:
    """The `ollama` that the host has already, as the current version."""
    own = shutil.which("ollama", path=PATH)
    if own is None:
        raise Refused(f"there is no `ollama` ({PATH}): install it, or name `deploy.ollama` to have it brought there")
    link = work.at(VERSIONS) / OF_PATH / PROGRAM
    if link.is_symlink() and os.readlink(str(link)) == own and _now(work) == OF_PATH:
        return False, own
    if work.is_dry:
        return True, own
    version = _try(own, user)
    link.parent.mkdir(parents=True, exist_ok=True)
    _point(link, own)
    _switch(work, OF_PATH)
    return True, f"{own}, {version}"


def _unpack(work: Work, sent: str, place: Path, user: str, is_archive: bool) -> str:
    """The version's folder, from what was received; the version it says it is."""
    received = work.at(INCOMING) / sent
    if not sent or not received.exists():
        raise Refused("the program is not there any more; run this again")
    beside = place.with_name(f".{place.name}.new")
    shutil.rmtree(str(beside), ignore_errors=True)
    try:
        beside.mkdir()
        if is_archive:
            take_out(received, beside, lambda name: work.tell(f"unpacking {name}"))
        else:
            (beside / PROGRAM).parent.mkdir()
            shutil.copyfile(str(received), str(beside / PROGRAM))
            with (beside / PROGRAM).open("rb") as file:
                to_disk(file)
        _check_inside(beside)
        (beside / PROGRAM).chmod(0o755)
        version = _try(str(beside / PROGRAM), user)
        shutil.rmtree(str(place), ignore_errors=True)  # without its program it is none
        beside.rename(place)
    except UnfitArchive as error:
        raise Refused(f"the archive {error}") from error
    finally:
        shutil.rmtree(str(beside), ignore_errors=True)
    return version


def _check_inside(folder: Path) -> None:
    """Raises UnfitArchive where the program is no file of this folder: links may lead on through other links."""
    program = (folder / PROGRAM).resolve()
    if folder.resolve() not in program.parents or not program.is_file():
        raise UnfitArchive(f"has no {PROGRAM} of its own")


def _try(program: str, user: str) -> str:
    """What it says its version is. It is run as `user` and kept from any server that is there."""
    known = accounts.account(user)
    if known is None:
        raise Refused(f"there is no user {user}")
    environment = {"PATH": PATH, "HOME": known.pw_dir, "OLLAMA_HOST": "127.0.0.1:9", "LC_ALL": "C"}
    try:
        done = subprocess.run(  # noqa: S603 (a list of words, of a file whose digest was checked)
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=TRY_S,
            env=environment,
            cwd="/",
            preexec_fn=accounts.become(known, for_good=True),
        )
    except subprocess.TimeoutExpired as error:
        raise Refused(f"`ollama --version` did not end within {TRY_S:g} s: this is no Ollama") from error
    except OSError as error:
        machine = os.uname().machine
        raise Refused(f"the program does not run on this {machine} host ({error.strerror}): name another") from error
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        last = said.splitlines()[-1] if said else f"status {done.returncode}"
        raise Refused(f"the program does not run there ({last}): name another")
    found = _VERSION.search(said)
    return found.group() if found else "version not told"


def _now(work: Work) -> str | None:
    link = work.at(VERSIONS) / CURRENT
    return os.path.basename(os.readlink(str(link))) if link.is_symlink() else None  # noqa: PTH119


def _switch(work: Work, name: str) -> bool:
    """Have `current` lead to that version; whether it did not."""
    now, folder = _now(work), work.at(VERSIONS)
    if now == name:
        return False
    if now is not None and (folder / now).exists():
        os.utime(str(folder / now))  # until now it was in use: that is its age
    _point(folder / CURRENT, name)
    return True


def _point(link: Path, to: str) -> None:
    beside = link.with_name(f".{link.name}.new")
    if beside.is_symlink():
        beside.unlink()
    beside.symlink_to(to)
    beside.rename(link)


def _tidy(work: Work, sent: str) -> None:
    """Take away what arrived, and versions that are too old and that nothing runs from."""
    for each in work.at(INCOMING).iterdir():
        if each.name == sent or not is_locked(each):
            each.unlink()
    folder, now = work.at(VERSIONS), _now(work)
    old = [each for each in folder.iterdir() if _FOLDER.fullmatch(each.name) and each.name != now]
    old.sort(key=lambda each: each.stat().st_mtime, reverse=True)
    in_use = set(_running(work, old))
    for each in old[OLD_ONES:]:
        if each not in in_use:
            shutil.rmtree(str(each))
    for each in folder.glob(".*.new"):  # of a run that was cut off; there is no other one now
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(str(each))


def _running(work: Work, versions: Iterable[Path]) -> list[Path]:
    """Those that a process runs from, as its program or by a library."""
    found = []
    maps = [_mapped(each) for each in Path("/proc").glob("[0-9]*")]
    for version in versions:
        if any(f"{version}/" in each for each in maps):
            found.append(version)
    return found


def _mapped(process: Path) -> str:
    try:
        return (process / "maps").read_text(errors="replace")
    except OSError:  # it has ended
        return ""
