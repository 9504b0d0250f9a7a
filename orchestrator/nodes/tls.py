"""TLS to instances: whom to trust and how to be known by.

Both sides are always checked: an instance's certificate must be of an authority that is trusted, and name its node.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from orchestrator.core.address import address_text
from orchestrator.core.errors import InstanceError

Address = tuple[str, int]

SHOWN_WITHIN_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Papers:
    """Files in PEM. `ca`: of those who are trusted, '' the system's; `cert` and `key`: ours, '' none or in `cert`."""

    ca: str = ""
    cert: str = ""
    key: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each for each in (self.ca, self.cert, self.key) if each))


class Contexts:
    """One context for all instances with the same papers, made once, and anew where their files were written anew.

    `given`: papers of servers that somebody else runs, by address; `own`: the file that all others are asked with.
    """

    def __init__(self, own: Path | None = None, given: Callable[[], Mapping[Address, Papers]] = dict) -> None:
        self._own = Papers() if own is None else Papers(str(own), str(own))
        self._given = given

    def of(self, host: str, port: int) -> ssl.SSLContext:
        """What an instance there is asked with. Raises OSError, with the files, where they cannot be read."""
        papers = self._given().get((host, port), self._own)
        return _context(papers, _written(papers))

    async def shown(self, host: str, port: int, named: str) -> str:
        """The certificate that is shown there to who asks for `named`, in PEM, whether or not it is to be trusted.

        Raises OSError.
        """
        context = _unchecking(self._given().get((host, port), self._own))
        async with asyncio.timeout(SHOWN_WITHIN_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=named)
        found: ssl.SSLObject = writer.get_extra_info("ssl_object")
        writer.transport.abort()
        der = found.getpeercert(binary_form=True)
        if der is None:
            raise OSError("it shows no certificate")
        return ssl.DER_cert_to_PEM_cert(der)

    def spoken(self, instance: str, host: str, port: int, named: str) -> tuple[str, dict[str, Any]]:
        """Where its API begins, and what aiohttp's request is told of TLS. `named`: whom its certificate must name;
        '': it is spoken to in clear. Raises InstanceError."""
        address = address_text(host, port)
        if not named:
            return f"http://{address}", {}
        try:
            told = {"ssl": self.of(host, port), "server_hostname": named}
        except OSError as why:
            raise InstanceError(instance, str(why), is_unreachable=True) from why
        return f"https://{address}", told


@lru_cache(maxsize=64)
def _context(papers: Papers, written: tuple[int, ...]) -> ssl.SSLContext:
    """`written`: when its files were, so that renewed ones are read."""
    try:
        context = ssl.create_default_context(cafile=papers.ca or None)
        if papers.cert:
            context.load_cert_chain(papers.cert, papers.key or None)
    except (OSError, ValueError) as why:
        said = why.strerror or str(why) if isinstance(why, OSError) else str(why)
        raise OSError(f"no certificates can be read from {', '.join(papers.files)}: {said}") from why
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _unchecking(papers: Papers) -> ssl.SSLContext:
    """One to look at certificates with, and for nothing else. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if papers.cert and Path(papers.cert).exists():  # up to TLS 1.2 some show theirs to nobody without one
        context.load_cert_chain(papers.cert, papers.key or None)
    return context


def _written(papers: Papers) -> tuple[int, ...]:
    files = [Path(each) for each in papers.files]
    return tuple(each.stat().st_mtime_ns if each.exists() else 0 for each in files)
