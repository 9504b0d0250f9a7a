"""From a URL to an open socket: where Redis is, how to log in, and which of Sentinel's servers is the master now."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from orchestrator.core.errors import SettingsError, StoreError

FORMS = (
    "redis://[user:password@]host[:port][/db], rediss://…, unix:///path[?db=n], sentinel://host[:port],…/master[/db]"
)
REDIS_PORT, SENTINEL_PORT = 6379, 26379

P = TypeVar("P", bound=asyncio.Protocol)


@dataclass(frozen=True, slots=True)
class Address:
    """One Redis, or the Sentinels that know it. `str` of it carries no password."""

    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    master: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    is_tls: bool = False

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        at = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        if self.master:
            return f"sentinel://{at}/{self.master}"
        return f"{'rediss' if self.is_tls else 'redis'}://{at}"


def parse_url(url: str) -> Address:
    """Read one of `FORMS`. Raises SettingsError, which never repeats the password."""
    try:
        parts = urlsplit(url)
        query_db = parse_qs(parts.query).get("db", ["0"])[0]
        username, password = _login(parts)
        address = Address(username=username, password=password, db=int(query_db), is_tls=parts.scheme == "rediss")
        if parts.scheme == "unix" and parts.path:
            return replace(address, path=unquote(parts.path))
        segments = [unquote(each) for each in parts.path.split("/") if each]
        if parts.scheme == "sentinel" and segments:
            master, *rest = segments
            address = replace(address, hosts=_hosts(parts, SENTINEL_PORT), master=master)
            return replace(address, db=int(rest[0])) if rest else address
        if parts.scheme in ("redis", "rediss"):
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


async def open_socket(address: Address, make: Callable[[], P]) -> P:
    """Connect to what `address` means at this moment. Raises OSError (ssl's included) or StoreError."""
    loop = asyncio.get_running_loop()
    if address.path:
        return (await loop.create_unix_connection(make, address.path))[1]
    host, port = await _find_master(address) if address.master else address.hosts[0]
    tls = ssl.create_default_context() if address.is_tls else None
    return (await loop.create_connection(make, host, port, ssl=tls))[1]


async def _find_master(address: Address) -> tuple[str, int]:
    # redis-py is imported only where there are Sentinels: it takes a tenth of a second that other starts need not pay.
    from redis.asyncio.sentinel import Sentinel
    from redis.exceptions import RedisError

    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        list(address.hosts), socket_timeout=1.0, socket_connect_timeout=1.0
    )
    try:
        host, port = await sentinel.discover_master(address.master)
    except RedisError as why:
        raise StoreError(f"no Sentinel of {address} knows its master: {why}") from why
    finally:
        for each in sentinel.sentinels:
            await each.aclose()
    return str(host), int(port)
