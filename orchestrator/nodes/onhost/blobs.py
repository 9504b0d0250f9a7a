"""A folder of models as Ollama keeps it, and the user it belongs to: names checked, so that none leads out of it."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
from pathlib import Path
from typing import Any

LARGEST_MANIFEST_BYTES = 4 * 2**20
_BLOB = re.compile(r"sha256-[0-9a-f]{64}")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]*")


class Trouble(Exception):
    """What cannot be done, in one line. `fault`: where the cause is, `source`, `target`, `way` or `corrupt`."""

    def __init__(self, fault: str, message: str) -> None:
        super().__init__(message)
        self.fault = fault


def blob_path(folder: Path, name: str) -> Path:
    """Where a blob lies. Raises Trouble for what is no blob's name."""
    if not _BLOB.fullmatch(name):
        raise Trouble("source", f"{name!r} is no name of a blob")
    return folder / "blobs" / name


def manifest_path(folder: Path, parts: list[str]) -> Path:
    """Where the manifest of registry, namespace, model and tag lies. Raises Trouble for what is no name."""
    if len(parts) != 4 or not all(_PART.fullmatch(each) for each in parts):
        raise Trouble("source", f"{'/'.join(parts)!r} is no name of a model")
    return folder.joinpath("manifests", *parts)


def blobs_of(content: bytes) -> dict[str, int]:
    """The blobs that a manifest names, with their sizes. Raises Trouble where it is none."""
    try:
        told: Any = json.loads(content.decode())
        return {str(each["digest"]).replace(":", "-"): int(each["size"]) for each in [*told["layers"], told["config"]]}
    except (ValueError, KeyError, TypeError) as error:
        raise Trouble("source", "its manifest is none that can be read") from error


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def become(user: str) -> None:
    """Have no more rights than this user from now on; who is not root has no more already. Raises Trouble."""
    if os.geteuid() != 0:
        return
    who = _user(user)
    os.initgroups(who.pw_name, who.pw_gid)
    os.setgid(who.pw_gid)
    os.setuid(who.pw_uid)


def make_folders(folder: Path, user: str) -> None:
    """The folder and those above it that are missing, the user's own. Raises Trouble."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    wanted = [*reversed(missing), folder / "blobs", folder / "manifests"]
    try:
        for each in wanted:
            each.mkdir(mode=0o755, exist_ok=True)
            if os.geteuid() == 0 and (each in missing or each.stat().st_uid == 0):
                who = _user(user)
                os.chown(each, who.pw_uid, who.pw_gid)
    except OSError as error:
        raise Trouble("target", f"{error.filename}: {error.strerror}") from error


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError as error:
        raise Trouble(
            "target", f"there is no user {name}: `ollamactl deploy` makes it, or set `deploy.user`"
        ) from error
