"""How long certificates last that TLS to instances stands on, of those that this machine can look at: as metrics, too.

Hosts are looked at by whoever keeps their certificates; what servers of others show is asked of them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from orchestrator import telemetry
from orchestrator.app.authority import authorities_of
from orchestrator.app.paths import StatePaths
from orchestrator.app.speaking_tls import papers_of
from orchestrator.core.address import address_text
from orchestrator.core.certificates import Lasting
from orchestrator.core.errors import HostError
from orchestrator.nodes.authority import ends_in
from orchestrator.nodes.tls import Address, Contexts
from orchestrator.settings import ClusterSettings

_NAMED: Final = {"ca": "server-ca", "cert": "server-cert"}


def of_files(paths: StatePaths, settings: ClusterSettings) -> list[Lasting]:
    """Of the files on this machine: the cluster's own, and those that the settings name for servers of others."""
    found = [*_own(paths, settings)]
    for address, papers in papers_of(settings).items():
        whose = address_text(*address)
        found += [_of_file(kind, whose, file) for name, kind in _NAMED.items() if (file := getattr(papers, name))]
    return found


async def of_servers(contexts: Contexts, asked: Iterable[tuple[str, str, Address]]) -> list[Lasting]:
    """What those show that are asked, by kind, name that the certificate should have, and address."""

    async def look(kind: str, named: str, address: Address) -> Lasting:
        whose = named if kind == "host" else address_text(*address)
        try:
            return Lasting(kind, whose, ends_in((await contexts.shown(*address, named)).encode())[0])
        except (OSError, ValueError) as why:
            return Lasting(kind, whose, None, str(why) or type(why).__name__)

    return list(await asyncio.gather(*(look(*each) for each in asked)))


def _own(paths: StatePaths, settings: ClusterSettings) -> Iterable[Lasting]:
    try:
        authorities = authorities_of(paths, settings)
    except HostError as why:
        yield Lasting("authority", "cluster", None, str(why))
        return
    if authorities is not None:
        yield Lasting("authority", "cluster", authorities.signs.until_unix_s)
        yield _of_file("gateway", socket.gethostname(), str(paths.client_certificate))


def _of_file(kind: str, whose: str, file: str) -> Lasting:
    """Of several authorities the one that lasts longest counts: the others may be those that went before it."""
    try:
        ends = ends_in(Path(file).read_bytes())
    except (OSError, ValueError) as why:
        said = why.strerror or str(why) if isinstance(why, OSError) else "there is no certificate in it"
        return Lasting(kind, whose, None, f"{file}: {said}")
    return Lasting(kind, whose, max(ends) if kind == "server-ca" else ends[0])


class EndGauges:
    """What is known, as metrics."""

    def __init__(self) -> None:
        self._series = telemetry.Series(telemetry.CERTIFICATE_END)

    def tell(self, known: Iterable[Lasting]) -> None:
        """Put it there in place of what was told before."""
        ends = (((each.kind, each.whose), each.until_unix_s) for each in known)
        self._series.tell({labels: until_unix_s for labels, until_unix_s in ends if until_unix_s is not None})
