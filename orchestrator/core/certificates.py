"""When a certificate of the cluster's own is made anew: there is none, it is for others, or two thirds of its time are
over. And how long any of those lasts that TLS to instances stands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# What nobody renews for so long is refused: hosts that nobody deployed to, gateways without a controller.
LIFE_DAYS: Final = 90
# Clocks of hosts differ: one that is behind must not find a new certificate to be of tomorrow.
EARLIER_DAYS: Final = 1
RENEWED_AT: Final = 2 / 3
# Who looks after certificates hears of one by then: ours should have been renewed nine days before.
SOON_DAYS: Final = 21
_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Lasting:
    """How long one lasts that TLS to instances stands on; None: `why` that is not known.

    `kind`: authority (the cluster's own), host (a host of ours, `whose` name), gateway (this machine's), or of a server
    that somebody else runs, at its address: server (what it shows), server-ca and server-cert (files of ours for it).
    """

    kind: str
    whose: str
    until_unix_s: int | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What one says of itself. `authority`: whose key signed it; `names`: whom it is for, host names and addresses."""

    authority: str
    names: frozenset[str]
    since_unix_s: int
    until_unix_s: int

    @property
    def renewed_unix_s(self) -> float:
        """From then on another takes its place: a third of its life is left for whatever keeps that from happening."""
        return renewed_at(self.since_unix_s, self.until_unix_s)


@dataclass(frozen=True, slots=True)
class Held:
    """What a host or a machine has: whose key signed what it shows, and which authorities it trusts."""

    signed_by: str
    trusts: frozenset[str]

    @property
    def words(self) -> str:
        """The same for the same."""
        return " ".join((self.signed_by, *sorted(self.trusts)))


def renewed_at(since_unix_s: int, until_unix_s: int) -> float:
    """When two thirds of a time are over."""
    return since_unix_s + RENEWED_AT * (until_unix_s - since_unix_s)


def life_at(now_unix_s: int) -> tuple[int, int]:
    """From when to when one that is made now holds."""
    return now_unix_s - EARLIER_DAYS * _DAY_S, now_unix_s + LIFE_DAYS * _DAY_S


def why_renewed(has: Certificate | None, authority: str, names: frozenset[str], now_unix_s: int) -> str:
    """Why another is made in place of what one `has`; '': that one stays. `names`: those that it must have."""
    if has is None:
        return "there is none"
    if has.authority != authority:
        return "it is of another authority"
    if missing := sorted(names - has.names):
        return f"it is not for {', '.join(missing)}"
    if now_unix_s >= has.until_unix_s:
        return "it has expired"
    return "two thirds of its time are over" if now_unix_s >= has.renewed_unix_s else ""
