"""A network and mounts of one's own: what is dropped, filled or unnamed is so for nobody else, and gone at the end.

The calling thread moves, and with it every process and thread that it starts from then on; nothing is left behind even
where it is killed. Needs root.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_NEW_MOUNTS, _NEW_NETWORK = 0x00020000, 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> str:
    """What keeps this machine from having them, for people; empty: nothing."""
    if os.geteuid() != 0:
        return "a network and mounts of one's own need root"
    lacking = [each for each in ("ip", "nft", "mount") if shutil.which(each) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


def needs_namespaces() -> None:
    """Skip where there can be none, saying what is missing."""
    if why := missing():
        pytest.skip(why)


@contextmanager
def own_namespaces() -> Iterator[None]:
    """Be in them, with a loopback that is up."""
    before = [os.open(f"/proc/thread-self/ns/{each}", os.O_RDONLY) for each in ("mnt", "net")]
    where = Path.cwd()
    try:
        _call("unshare", _NEW_MOUNTS | _NEW_NETWORK)
        try:
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            for each in before:
                _call("setns", each, 0)
            os.chdir(where)
    finally:
        for each in before:
            os.close(each)


def _call(name: str, *args: int) -> None:
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


# --- a disk of one's own ----------------------------------------------------------------------------------------------


def small_disk(folder: Path, size: str = "64m") -> Path:
    """A file system of its own at a folder, which can be filled. It goes with the mounts."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "chaos", str(folder)], check=True)
    return folder


def fill(folder: Path) -> Path:
    """Take what room there is; the answer is what to unlink for it."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (2**16, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


# --- names ------------------------------------------------------------------------------------------------------------


class Names:
    """Who has which address, as this machine's own files say; and nobody else to ask."""

    def __init__(self, folder: Path) -> None:
        self._hosts, nobody = folder / "hosts", folder / "resolv.conf"
        nobody.write_text("nameserver 127.0.0.53\noptions timeout:1 attempts:1\n")  # where nobody listens
        self._hosts.write_text("127.0.0.1 localhost\n")
        for source, target in ((self._hosts, "/etc/hosts"), (nobody, "/etc/resolv.conf")):
            subprocess.run(["mount", "--bind", str(source), target], check=True)

    def of(self, name: str) -> str:
        return f"{name}.internal"

    def know(self, *names: str) -> None:
        """These, too, lead to this machine. The file stays the one that is mounted."""
        with self._hosts.open("a") as hosts:
            hosts.writelines(f"127.0.0.1 {self.of(each)}\n" for each in names)

    def forget(self) -> None:
        """All of them."""
        self._hosts.write_text("127.0.0.1 localhost\n")


# --- packets ----------------------------------------------------------------------------------------------------------


class Wall:
    """Drops every packet to a port, without a word to anybody."""

    _TABLE = "chaos"

    def drop(self, *ports: int) -> None:
        listed = ", ".join(map(str, ports))
        rules = (
            f"table inet {self._TABLE} {{\n chain input {{\n type filter hook input priority 0;\n"
            f"tcp dport {{ {listed} }} drop\ntcp sport {{ {listed} }} drop\n}}\n}}\n"
        )
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)

    def open(self) -> None:
        subprocess.run(["nft", "delete", "table", "inet", self._TABLE], check=False, stderr=subprocess.DEVNULL)
