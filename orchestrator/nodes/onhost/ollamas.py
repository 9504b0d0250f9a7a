"""What Ollama has on this host already: the servers that run, whoever started them, and the models in a folder.

Another user's process tells little to one who is not root: what cannot be read is None.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.nodes.onhost.host import text_of

# In the environment of every instance that the cluster started; `fleet.made` writes it.
MARK = "OLLAMACTL_INSTANCE"
DEFAULT_PORT = 11434
DEFAULT_REGISTRY = "registry.ollama.ai"
MOST_MANIFESTS = 1000
LARGEST_MANIFEST_BYTES = 2**20
_LISTENING = "0A"


def servers(root: Path) -> list[dict[str, Any]]:
    """Each `ollama serve` of this host: its process, port, user, models and systemd unit."""
    found = []
    for process in sorted((root / "proc").glob("[0-9]*"), key=lambda each: int(each.name)):
        if _is_serving(text_of(process / "cmdline").split("\0")):
            found.append(_server(process))
    return found


def _is_serving(words: list[str]) -> bool:
    """`ollama serve`, also where an interpreter or a wrapper runs it."""
    return any(Path(word).name == "ollama" and after == "serve" for word, after in zip(words[:3], words[1:4]))


def owner(root: Path, pid: int) -> dict[str, str]:
    """Name and user of a process; empty where it is gone or in a container that hides it."""
    process = root / "proc" / str(pid)
    return {"name": text_of(process / "comm").strip(), "user": _user(process)}


def _server(process: Path) -> dict[str, Any]:
    environment = dict(each.split("=", 1) for each in text_of(process / "environ").split("\0") if "=" in each)
    home = environment.get("HOME")
    unread = None if home is None else str(Path(home) / ".ollama" / "models")
    return {
        "pid": int(process.name),
        "port": _listening_port(process, environment),
        "user": _user(process),
        "models_dir": environment.get("OLLAMA_MODELS") or unread,
        "unit": _unit(process),
        "is_ours": MARK in environment,
    }


def _user(process: Path) -> str:
    try:
        uid = process.stat().st_uid
    except OSError:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _unit(process: Path) -> str | None:
    for line in text_of(process / "cgroup").splitlines():
        last = line.rpartition("/")[2]
        if last.endswith(".service"):
            return last
    return None


def _listening_port(process: Path, environment: dict[str, str]) -> int | None:
    """The port it listens on, by its sockets; the one its environment asks for where those cannot be read."""
    inodes = sockets(process)
    for table in ("net/tcp", "net/tcp6"):
        for line in text_of(process / table).splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and fields[9] in inodes:
                return int(fields[1].rpartition(":")[2], 16)
    if not environment:
        return None
    port = environment.get("OLLAMA_HOST", "").rpartition(":")[2]
    return int(port) if port.isdecimal() else DEFAULT_PORT


def sockets(process: Path) -> set[str]:
    """Inodes of the sockets that it has open."""
    found = set()
    try:
        for each in (process / "fd").iterdir():
            try:
                target = os.readlink(each)
            except OSError:  # closed since
                continue
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:  # ended since, or another user's
        pass
    return found


# --- models on disk --------------------------------------------------------------------------------------------------


class Models:
    """The models of a folder, each manifest read again only where it changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}

    def present(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Name, digest and size of each model that is whole, and a sentence where the folder cannot be read."""
        manifests = self._folder / "manifests"
        if not os.path.isdir(manifests):  # noqa: PTH112 (whatever the path, it raises nothing)
            return [], []
        if not os.access(manifests, os.R_OK | os.X_OK):
            return [], [f"models cannot be read at {manifests}: allow this user in"]
        paths = sorted(islice(manifests.glob("*/*/*/*"), MOST_MANIFESTS))
        seen = {path: self._manifest(path) for path in paths}
        self._read = {path: each for path, each in seen.items() if each is not None}
        return [told for _, told in self._read.values() if self._is_whole(told)], []

    def _manifest(self, path: Path) -> tuple[tuple[int, int], dict[str, Any]] | None:
        """What the manifest says; None where it is none, or is being replaced at this moment."""
        try:
            status = path.stat()
            version = (status.st_mtime_ns, status.st_size)
            known = self._read.get(path)
            if known is not None and known[0] == version:
                return known
            content = path.read_bytes() if status.st_size <= LARGEST_MANIFEST_BYTES else b""
            layers = [*json.loads(content)["layers"], json.loads(content)["config"]]
            told = {
                "name": _name(path.relative_to(self._folder / "manifests").parts),
                "digest": hashlib.sha256(content).hexdigest(),
                "size_bytes": sum(int(each["size"]) for each in layers),
                "blobs": {str(each["digest"]).replace(":", "-"): int(each["size"]) for each in layers},
            }
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return version, told

    def _is_whole(self, told: dict[str, Any]) -> bool:
        for name, size in told["blobs"].items():
            try:
                if (self._folder / "blobs" / name).stat().st_size != size:
                    return False
            except OSError:
                return False
        return True


def _name(parts: tuple[str, ...]) -> str:
    """The name that callers ask by: without what is Ollama's default."""
    registry, namespace, model, tag = parts
    if registry != DEFAULT_REGISTRY:
        return f"{registry}/{namespace}/{model}:{tag}"
    return f"{model}:{tag}" if namespace == "library" else f"{namespace}/{model}:{tag}"
