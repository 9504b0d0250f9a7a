"""The places that share one Redis: which are known, since when one is silent, and each gateway's share among them.

A place is one state folder on one machine. Who is heard of the store says; what is written down of it is `app`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from orchestrator.core.admission import Share

# A place that is silent for so long, while Redis is there, is gone for good. Until then its gateways may be paused, or
# cut off, and use slots of theirs when they come to: their share is not given to others.
FORGOTTEN_AFTER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Member:
    """One place. `name`: for people; `is_bound`: its instances are processes of its own machine.

    `works_by`: a digest of what its settings say of the fleet; `problem`: why its controller would not lead;
    `papers`: whose its certificate is and whom it trusts behind TLS, as its controller says ('' none).
    """

    place: str
    name: str
    workers: int
    is_bound: bool = False
    works_by: str = ""
    problem: str = ""
    papers: str = ""


@dataclass(frozen=True, slots=True)
class Crew:
    """All places that are known, and since when one of them has not been heard of, by a clock of this process."""

    members: Mapping[str, Member] = field(default_factory=dict)
    silent_since_s: Mapping[str, float] = field(default_factory=dict)

    def after(self, heard: Collection[Member], now_s: float) -> Crew:
        """What is known once Redis has told of these."""
        told = {each.place: each for each in heard}
        since = {place: self.silent_since_s.get(place, now_s) for place in self.members if place not in told}
        gone = {place for place, at_s in since.items() if now_s - at_s >= FORGOTTEN_AFTER_S}
        members = {place: each for place, each in {**self.members, **told}.items() if place not in gone}
        return Crew(members, {place: at_s for place, at_s in since.items() if place not in gone})

    def anew(self) -> Crew:
        """Redis was away, and may have lost who is there: everybody has all of the time again to be heard of."""
        return replace(self, silent_since_s={})

    def share(self, of: Member, index: int) -> Share:
        """The share of gateway `index` of a place: in the order of places, then of their gateways."""
        others = [each for place, each in sorted(self.members.items()) if place != of.place]
        before = sum(each.workers for each in others if each.place < of.place)
        elsewhere = sum(each.workers for each in others)
        return Share(before + index, of.workers + elsewhere, elsewhere)
