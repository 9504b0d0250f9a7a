"""Where things lie in a state folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.errors import HostError

# A unix socket's path is at most 107 bytes on Linux (unix(7)), 103 on macOS.
LONGEST_SOCKET_PATH = 103


@dataclass(frozen=True, slots=True)
class StatePaths:
    """The state folder of one cluster on this machine, private to its owner."""

    root: Path

    @property
    def settings(self) -> Path:
        """The last valid settings, as every child process reads them."""
        return self.root / "settings.yaml"

    @property
    def known_hosts(self) -> Path:
        """The keys that hosts are known by."""
        return self.root / "known_hosts"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def calls(self) -> Path:
        """The request log."""
        return self.root / "calls"

    @property
    def replays(self) -> Path:
        """Answers of the evaluation that is under way, and of the last one."""
        return self.root / "replays"

    @property
    def audit(self) -> Path:
        """Who had what done."""
        return self.root / "audit.jsonl"

    @property
    def events(self) -> Path:
        """What happened to the fleet."""
        return self.root / "events.jsonl"

    @property
    def simulator(self) -> Path:
        return self.root / "sim"

    @property
    def owner(self) -> Path:
        """Whose the hosts of a cluster are, the same on each of its machines; none: this folder's alone."""
        return self.root / "owner"

    @property
    def authority(self) -> Path:
        """What certificates of hosts and gateways are signed by, sealed; the same on each machine of a cluster."""
        return self.root / "authority.sealed"

    @property
    def client_certificate(self) -> Path:
        """What this machine shows to hosts, and checks theirs by: key, certificate and that of the authority."""
        return self.root / "client.pem"

    @property
    def slots(self) -> Path:
        """What the gateways of this machine use on each instance, for each other to see."""
        return self.root / "slots.map"

    @property
    def keys(self) -> Path:
        """Keys as `ollamactl keys` keeps them, unless `keys_file` says where."""
        return self.root / "keys.json"

    @property
    def keys_in_use(self) -> Path:
        """The last valid ones, as every child process reads them; none: nobody needs a key."""
        return self.root / "keys-in-use.json"

    @property
    def own_key(self) -> Path:
        """The secret by which this cluster's own commands ask it."""
        return self.root / "own.key"

    @property
    def keeper_socket(self) -> Path:
        return self._socket("keeper.sock")

    def leave_no_sockets(self) -> None:
        """Remove the folder that sockets lay in where this one's path was too long for them, once it is empty."""
        folder = self.keeper_socket.parent
        if folder != self.root and not any(folder.iterdir()):
            folder.rmdir()

    def _socket(self, name: str) -> Path:
        wanted = self.root / name
        if len(os.fsencode(wanted)) <= LONGEST_SOCKET_PATH:
            return wanted
        # A deep state folder: the socket lies in a private folder with a short name that the path determines.
        digest = hashlib.blake2b(os.fsencode(self.root), digest_size=6).hexdigest()
        folder = Path(tempfile.gettempdir()) / f"ollamactl-{os.getuid()}-{digest}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
            raise HostError(
                f"{folder} belongs to somebody else or is open to others; remove it, or name a shorter --state"
            )
        return folder / name


def default_state() -> Path:
    """`$XDG_STATE_HOME/ollamactl`, by default under ~/.local/state (XDG Base Directory Specification 0.8)."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "ollamactl"
