"""The keys that hosts are known by: pinned once somebody saw their fingerprint, never replaced unasked.

The file is OpenSSH's known_hosts: `ssh -o UserKnownHostsFile=` can read it. Whether to trust a key is asked elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import asyncssh

from orchestrator.core.errors import HostError
from orchestrator.whole_file import write_whole


class HostKeys:
    """Pinned keys by host and port, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pinned(self, host: str, port: int) -> asyncssh.SSHKey | None:
        """The key that this host must have; None before the first contact. Raises HostError for a broken file."""
        for label, key in self._lines():
            if label == _label(host, port):
                return _imported(key, self.path)
        return None

    def pin(self, host: str, port: int, key: asyncssh.SSHKey) -> None:
        """Know the host by this key from now on, and by no other."""
        text = " ".join(key.export_public_key("openssh").decode().split()[:2])
        kept = [f"{label} {other}" for label, other in self._lines() if label != _label(host, port)]
        self._write("".join(f"{each}\n" for each in [*kept, f"{_label(host, port)} {text}"]))

    def _lines(self) -> list[tuple[str, str]]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise HostError(f"the host keys in {self.path} cannot be read: {error}") from error
        words = (line.split(" ", 1) for line in text.splitlines() if line.strip() and not line.startswith("#"))
        return [(each[0], each[-1]) for each in words]

    def _write(self, text: str) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self.path, text, mode=0o600)
        except OSError as error:
            raise HostError(f"the host key cannot be kept in {self.path}: {error}") from error


def fingerprint(key: asyncssh.SSHKey) -> str:
    """As `ssh-keygen -l` prints it: `SHA256:…`."""
    return key.get_fingerprint("sha256")


def _label(host: str, port: int) -> str:
    return host if port == 22 else f"[{host}]:{port}"


def _imported(text: str, path: Path) -> asyncssh.SSHKey:
    try:
        return asyncssh.import_public_key(text)
    except asyncssh.KeyImportError as error:
        raise HostError(f"a host key in {path} is none ({error}): remove its line") from error
