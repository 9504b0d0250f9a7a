"""What one nginx server before the cluster is to do, as values that are checked when they are made.

Where the values come from is left to `app`, how nginx is told to `text`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.core.nginx.checks import check_address, check_network, check_path, check_server_name

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one address may ask; None: as much as it wants."""

    a_minute: int | None = None
    burst: int = 20
    at_once: int | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """One server: where it listens, what it asks, and for whom. Raises ValueError for what nginx could misread.

    `name` prefixes what must be unique among all files nginx reads. `is_direct`: `servers` are instances, not
    gateways. `version` is nginx' own, (0, 0, 0) where it is not known.
    """

    servers: tuple[str, ...]
    server_name: str
    listen: tuple[str, ...]
    certificate: str | None = None
    key: str | None = None
    redirect_from: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    is_proxy_protocol: bool = False
    operators: tuple[str, ...] = ("127.0.0.1",)
    limits: Limits = Limits()
    access_log: str = "/var/log/nginx/ollama-cluster.log"
    body_bytes: int = 16 * 2**20
    silence_s: int = 1200
    name: str = "ollama_cluster"
    is_direct: bool = False
    version: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        if not self.servers or not self.listen:
            raise ValueError("nginx needs an address to listen on, and one to send calls to")
        for address in (*self.servers, *self.listen, *self.redirect_from):
            check_address(address)
        for network in (*self.trusted_proxies, *self.operators):
            check_network(network)
        for path in (self.access_log, self.certificate, self.key):
            if path is not None:
                check_path(path)
        check_server_name(self.server_name)
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no prefix for nginx' variables")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("TLS needs a certificate and its key")
        if self.is_proxy_protocol and not self.trusted_proxies:
            raise ValueError("the PROXY protocol is believed from trusted proxies only; name them")

    @property
    def has_tls(self) -> bool:
        return self.certificate is not None


def without_gateway(site: Site, model: str, servers: Sequence[str]) -> Site:
    """The same server straight over the instances of one model."""
    # Two models' names may read alike once their signs are gone; the digest tells them apart. nginx takes no variable
    # of more than 46 letters where `variables_hash_bucket_size` is not set, and "_request_id" stands behind this.
    letters = re.sub(r"[^a-z0-9]+", "_", model.lower())[:20].strip("_")
    digest = hashlib.blake2b(model.encode(), digest_size=3).hexdigest()
    return replace(site, servers=tuple(sorted(set(servers))), name=f"ollama_{letters}_{digest}", is_direct=True)
