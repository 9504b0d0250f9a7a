"""From a URL to an open socket: where Redis or its Sentinels are, how to log in and over which TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from orchestrator.core.address import address_text
from orchestrator.core.errors import SettingsError, StoreError
from orchestrator.store.slots import Host

FORMS = (
    "redis://[user:password@]host[:port][/db], unix:///path[?db=n], sentinel://host[:port],…/master[/db], "
    "cluster://host[:port],…; over TLS rediss://, sentinels://, clusters://, then with ?ca=FILE&cert=FILE&key=FILE as "
    "needed"
)
REDIS_PORT, SENTINEL_PORT = 6379, 26379

_OVER_TLS: Final = ("rediss", "sentinels", "clusters")

P = TypeVar("P", bound=asyncio.Protocol)


@dataclass(frozen=True, slots=True)
class Address:
    """One Redis, the Sentinels that know it, or some of a Redis Cluster. `str` of it carries no password.

    `ca`: whom its certificate must be from, where not of the system's authorities; `cert`, `key`: ours, in PEM.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    master: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    is_tls: bool = False
    is_cluster: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        at = ",".join(address_text(*each) for each in self.hosts)
        more = "s" if self.is_tls else ""
        if self.master:
            return f"sentinel{more}://{at}/{self.master}"
        return f"{'cluster' if self.is_cluster else 'redis'}{more}://{at}"


def parse_url(url: str) -> Address:
    """Read one of `FORMS`. Raises SettingsError, which never repeats the password."""
    try:
        parts = urlsplit(url)
        scheme, is_tls = (parts.scheme[:-1], True) if parts.scheme in _OVER_TLS else (parts.scheme, False)
        told = parse_qs(parts.query)
        ca, cert, key = (told.get(name, [""])[0] if is_tls else "" for name in ("ca", "cert", "key"))
        username, password = _login(parts)
        db = int(told.get("db", ["0"])[0])
        address = Address(username=username, password=password, db=db, is_tls=is_tls, ca=ca, cert=cert, key=key)
        if scheme == "unix" and parts.path:
            return replace(address, path=unquote(parts.path))
        segments = [unquote(each) for each in parts.path.split("/") if each]
        if scheme == "sentinel" and segments:
            master, *rest = segments
            address = replace(address, hosts=_hosts(parts, SENTINEL_PORT), master=master)
            return replace(address, db=int(rest[0])) if rest else address
        if scheme == "cluster" and not segments and not db:
            return replace(address, hosts=_hosts(parts, REDIS_PORT), is_cluster=True)
        if scheme == "redis":
            address = replace(address, hosts=_hosts(parts, REDIS_PORT)[:1])
            return replace(address, db=int(segments[0])) if segments else address
    except ValueError:
        pass  # Told below with the forms that are right; the library's words might repeat the password.
    raise SettingsError(f"not a Redis URL; it has one of these forms: {FORMS}")


def _login(parts: SplitResult) -> tuple[str, str]:
    username, _, password = parts.netloc.rpartition("@")[0].partition(":")
    return unquote(username), unquote(password)


def _hosts(parts: SplitResult, default_port: int) -> tuple[tuple[str, int], ...]:
    found = []
    for each in parts.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{each}")
        found.append((one.hostname or "localhost", one.port or default_port))
    return tuple(found)


async def open_socket(address: Address, make: Callable[[], P], host: Host | None = None) -> P:
    """Connect to `host`, or else to the server that `address` names. Raises OSError (ssl's included) or StoreError."""
    loop = asyncio.get_running_loop()
    if address.path:
        return (await loop.create_unix_connection(make, address.path))[1]
    name, port = host or address.hosts[0]
    tls = _context(address, _written(address)) if address.is_tls else None
    return (await loop.create_connection(make, name, port, ssl=tls))[1]


@lru_cache(maxsize=8)
def _context(address: Address, written: tuple[int, ...]) -> ssl.SSLContext:
    """Whom to trust, and how to be known. Raises StoreError where a file cannot be read.

    `written`: when its files were, so that renewed ones are read.
    """
    try:
        context = ssl.create_default_context(cafile=address.ca or None)
        if address.cert:
            context.load_cert_chain(address.cert, address.key or None)
    except (OSError, ssl.SSLError) as why:
        files = ", ".join(each for each in (address.ca, address.cert, address.key) if each)
        raise StoreError(f"{address}: no certificates can be read from {files}: {why}") from why
    return context


def _written(address: Address) -> tuple[int, ...]:
    files = [Path(each) for each in (address.ca, address.cert, address.key) if each]
    return tuple(each.stat().st_mtime_ns if each.exists() else 0 for each in files)
