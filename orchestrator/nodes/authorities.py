"""Whose certificates hosts and gateways of one cluster trust: one authority, or two while one takes the other's place.

In steps, each taken once all have what the one before it asks for: both are trusted, and the old one signs; both are
trusted, and the new one signs; the new one is alone; and that is over once all have it. So whoever is ahead trusts
whoever is behind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from orchestrator.core.certificates import Held
from orchestrator.nodes.authority import Authority, held_in

_PEM: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n.+?-----END \1-----\n", re.DOTALL)

# Behind the last certificate: PEM has a place for remarks.
_LEFT: Final = b"another one has gone\n"


@dataclass(frozen=True, slots=True)
class Authorities:
    """`coming`: takes the place of the one that signs; `going`: had that place, in PEM without its key. Never both.

    `is_left`: neither any more, and some may still trust the one that went.
    """

    signs: Authority
    coming: Authority | None = None
    going: str = ""
    is_left: bool = False

    @staticmethod
    def made(now_unix_s: int) -> Authorities:
        """A new one."""
        return Authorities(Authority(Authority.made(now_unix_s)))

    @staticmethod
    def parse(pem: bytes) -> Authorities:
        """What `pem` gave. Raises ValueError."""
        every, key = [], ""
        for found in _PEM.finditer(pem.decode("ascii")):
            if found[1].endswith("PRIVATE KEY"):
                key = found[0]
            else:
                every.append((key, found[0]))
                key = ""
        match every:
            case [(key, certificate)]:
                return Authorities(_authority(key, certificate), is_left=pem.endswith(_LEFT))
            case [(key, certificate), ("", going)]:
                return Authorities(_authority(key, certificate), going=going)
            case [(key, certificate), (other, coming)]:
                return Authorities(_authority(key, certificate), coming=_authority(other, coming))
        raise ValueError(f"{len(every)} certificates of authorities")

    @property
    def pem(self) -> bytes:
        coming = "" if self.coming is None else self.coming.pem
        return (self.signs.pem + coming + self.going).encode() + (_LEFT if self.is_left else b"")

    @property
    def is_settled(self) -> bool:
        return self.coming is None and not self.going and not self.is_left

    @property
    def trusted(self) -> str:
        """Certificates of those who are trusted, in PEM; the same text whichever of them signs."""
        coming = "" if self.coming is None else self.coming.certificate
        return "".join(sorted(each for each in (self.signs.certificate, coming, self.going) if each))

    @property
    def held(self) -> Held:
        """What everybody is to have."""
        held = held_in(self.signs.certificate + self.trusted)
        assert held is not None
        return held

    def begun(self, now_unix_s: int) -> Authorities:
        """Another one comes. Only where none does yet, and none goes."""
        assert self.is_settled
        return Authorities(self.signs, coming=Authority(Authority.made(now_unix_s)))

    def followed(self) -> Authorities:
        """The next step, once all have what this one asks for. The old one's key ends with it."""
        if self.coming is not None:
            return Authorities(self.coming, going=self.signs.certificate)
        return Authorities(self.signs, is_left=bool(self.going))

    def for_client(self, name: str, now_unix_s: int) -> str:
        """What a machine asks hosts with: its key and certificate, and whom it trusts."""
        return self.signs.for_client(name, now_unix_s, self.trusted)


def _authority(key: str, certificate: str) -> Authority:
    return Authority((key + certificate).encode())
