"""The cluster's own authority and what it signs, as they lie in the state folder: made once, renewed in time.

The authority is sealed with what all machines of a cluster have in common, since it goes through Redis to the others.
Each machine has a certificate of its own, which its gateways and its controller show to hosts.
"""

from __future__ import annotations

import hashlib
import re
import socket
import time
from typing import Final

from orchestrator.app.mirroring import secret_of
from orchestrator.app.paths import StatePaths
from orchestrator.core.certificates import why_renewed
from orchestrator.core.errors import HostError
from orchestrator.nodes.authorities import Authorities
from orchestrator.nodes.authority import held_in, read_certificate
from orchestrator.settings import ClusterSettings, NodeSettings
from orchestrator.store.sealing import Seal
from orchestrator.whole_file import write_once, write_whole

_PLACE: Final = "authority"
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9.-]+")


def authorities_of(paths: StatePaths, settings: ClusterSettings, *, makes: bool = False) -> Authorities | None:
    """The cluster's authority; None: there is none yet, unless this one `makes` it. Raises HostError."""
    file = paths.authority
    if not makes and not file.exists():
        return None  # and no secret is made to open it with
    seal = _seal(paths, settings)
    try:
        if makes and not file.exists():
            write_once(file, seal.close(Authorities.made(_now()).pem, _PLACE), mode=0o600)
        pem = seal.open(file.read_bytes(), _PLACE)
        if pem is not None:
            return Authorities.parse(pem)
    except FileNotFoundError:
        return None
    except OSError as why:
        raise HostError(f"{file} cannot be read: {why.strerror}") from why
    except ValueError:
        pass  # told below: it is damaged
    raise HostError(
        f"{file} is damaged, or was sealed when `cache.secret` was another: bring that back, or remove the file and "
        "run `ollamactl deploy`, which makes another authority"
    )


def put_authorities(paths: StatePaths, settings: ClusterSettings, authorities: Authorities) -> None:
    """Have them be the cluster's from now on. Raises HostError."""
    try:
        write_whole(paths.authority, _seal(paths, settings).close(authorities.pem, _PLACE), mode=0o600)
    except OSError as why:
        raise HostError(f"{paths.authority} cannot be written: {why.strerror}") from why


def names_of(node: NodeSettings) -> tuple[str, ...]:
    """Whom a host's certificate is for. Not its address: that may be another node's name."""
    return (node.name,)


def renewed(authorities: Authorities, node: NodeSettings, shown: str) -> tuple[str, str]:
    """Why a host needs another certificate than the one it shows, and that one with its key; '' twice: it does not."""
    names, now = names_of(node), _now()
    why = why_renewed(read_certificate(shown), authorities.signs.id, frozenset(names), now)
    return (why, authorities.signs.for_host(names, now)) if why else ("", "")


def keep_client(paths: StatePaths, authorities: Authorities) -> str:
    """Have a good certificate of this machine's own; why it was made anew, '': it was not. Raises HostError."""
    file = paths.client_certificate
    name = _NO_NAME.sub("-", socket.gethostname()).strip("-.") or "gateway"
    try:
        text = file.read_text("ascii", "replace") if file.exists() else ""
        why = why_renewed(read_certificate(text), authorities.signs.id, frozenset(), _now())
        if not why and held_in(text) != authorities.held:
            why = "others are trusted"
        if why:
            write_whole(file, authorities.for_client(name, _now()), mode=0o600)
    except OSError as error:
        raise HostError(f"{file}: {error.strerror or error}") from error
    return why


def _seal(paths: StatePaths, settings: ClusterSettings) -> Seal:
    secret = secret_of(paths, settings)
    return Seal([hashlib.blake2b(secret, digest_size=32, person=b"olm authority").hexdigest()])


def _now() -> int:
    return int(time.time())
