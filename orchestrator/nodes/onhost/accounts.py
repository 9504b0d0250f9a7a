"""The user that instances run as, and the folders of a host's base.

A folder that somebody else made stays as it is: whether the user can work in it is tried, not assumed.
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.nodes.onhost.work import STATE, Refused, Told, Work, ran

if TYPE_CHECKING:
    from collections.abc import Callable

_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS (prctl.h)
COMMENT = "Ollama instances, made by ollamactl"  # by it we know the user again that goes with us
HOME = STATE + "/home"
CARDS = ("video", "render")  # groups that own the GPUs' device files on some distributions
OURS = {
    "/opt/ollamactl": 0o755,
    "/opt/ollamactl/ollama": 0o755,
    "/opt/ollamactl/incoming": 0o700,
    "/etc/ollamactl": 0o755,
    "/etc/ollamactl/instances": 0o700,  # environments, which may hold what is nobody's business
    STATE: 0o755,
}


def have_user(work: Work, user: str) -> Told:
    """The user, in the groups that cards belong to."""
    lacks = [each for each in CARDS if _is_group(each) and user not in grp.getgrnam(each).gr_mem]
    known = account(user)
    if known is not None and not lacks:
        return False, user
    words = f"{user}, in {' and '.join(lacks)}" if lacks else user
    if work.is_dry:
        return True, words
    if known is None:
        group = ["--gid", user] if _is_group(user) else ["--user-group"]
        shell = ["--shell", "/usr/sbin/nologin", "--home-dir", HOME, "--no-create-home"]
        ran("useradd", "--system", *group, *shell, "--comment", COMMENT, user)
    if lacks:
        ran("usermod", "--append", "--groups", ",".join(lacks), user)
    return True, words


def have_folders(work: Work, user: str, models_dir: str) -> Told:
    """Our own folders and that of the models; the user's home is made by the unit."""
    made = [path for path, mode in OURS.items() if _have(work, path, mode, None)]
    known = account(user)
    made += [models_dir] if _have_models(work, models_dir, known) else []
    return bool(made), ", ".join(made) if made else "are there"


def _have_models(work: Work, models_dir: str, known: pwd.struct_passwd | None) -> bool:
    """A new folder is the user's; one that was there must be fit for them, and stays whose it is."""
    path = work.at(models_dir)
    if path.is_symlink() and not path.exists():
        raise Refused(f"{models_dir} is a link to nowhere; mend it, or name another `models_dir`")
    if not path.exists():
        return _have(work, models_dir, 0o755, known)
    if not path.is_dir():
        raise Refused(f"{models_dir} is no folder; name another `models_dir`")
    if known is None or _can_use(path, known):
        return False
    if path.stat().st_uid == 0 and not any(path.iterdir()) and _can_enter(path.parent, known):
        return _have(work, models_dir, stat.S_IMODE(path.stat().st_mode) | 0o700, known)
    owner = _name_of(path.stat().st_uid)
    mend = f"set `deploy.user: {owner}`" if owner != "root" else f"`chown -R {known.pw_name} {models_dir}` there"
    raise Refused(
        f"{models_dir} is {owner}'s, and {known.pw_name} may not write in it: {mend}, or name another `models_dir`"
    )


def _have(work: Work, path: str, mode: int, owner: pwd.struct_passwd | None) -> bool:
    """A folder with this mode that belongs to `owner`, by default root; whether something was to be done."""
    at = work.at(path)
    uid, gid = (owner.pw_uid, owner.pw_gid) if owner is not None else (0, 0)
    if at.is_dir():
        is_so = at.stat()
        if (stat.S_IMODE(is_so.st_mode), is_so.st_uid) == (mode, uid):
            return False
    elif at.is_symlink() or at.exists():
        raise Refused(f"{path} is there and no folder; remove it")
    if not work.is_dry:
        at.mkdir(parents=True, exist_ok=True)
        os.chown(str(at), uid, gid)
        at.chmod(mode)
    return True


def account(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def is_ours(known: pwd.struct_passwd) -> bool:
    return known.pw_gecos.startswith(COMMENT)


def become(known: pwd.struct_passwd, *, for_good: bool = False) -> Callable[[], None]:
    """What a child runs before its program to be that user, in all of their groups.

    `for_good`: no program that it starts has more rights than that, such as sudo.
    """
    groups = os.getgrouplist(known.pw_name, known.pw_gid)
    prctl = ctypes.CDLL(None).prctl

    def change() -> None:
        if for_good and prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
            raise OSError("no_new_privs cannot be set")
        os.setgroups(groups)
        os.setgid(known.pw_gid)
        os.setuid(known.pw_uid)

    return change


def _can_use(path: Path, known: pwd.struct_passwd) -> bool:
    """Whether the user may write in the folder and in what Ollama keeps in it; ACLs and read-only mounts count."""
    kept = [path, *(each for each in (path / "blobs", path / "manifests") if each.exists())]
    return _as_user(known, lambda: all(os.access(str(each), os.R_OK | os.W_OK | os.X_OK) for each in kept))


def _can_enter(path: Path, known: pwd.struct_passwd) -> bool:
    return _as_user(known, lambda: os.access(str(path), os.X_OK))


def _as_user(known: pwd.struct_passwd, asked: Callable[[], bool]) -> bool:
    change = become(known)
    child = os.fork()
    if child == 0:
        try:
            change()
            os._exit(0 if asked() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
