"""What is seen of hosts over time: cards that went and came back, memory that others took.

A look in between is no news: what lasts is. What is done about it is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from orchestrator.core.model import Accelerator, Event, InstanceId, Moment, NodeFacts, NodeName, Placement
from orchestrator.core.placement import HEADROOM_BYTES
from orchestrator.core.sizing import per_card_bytes
from orchestrator.fleet.inventory import Sight
from orchestrator.fleet.standing import Unfit, foreign_bytes

TICK_S: Final = 1.0
# A driver that is reset or asked too much leaves a card out of one list or two.
LASTS_S: Final = 3.0
# What a driver and its libraries keep of a card beyond what processes are said to hold.
DRIVER_BYTES: Final = 2**30


class Sightings:
    """`placements`: what is or should be on the cards; `user`: whom instances run as."""

    def __init__(
        self,
        *,
        record: Callable[[Event], None],
        on_change: Callable[[], None],
        placements: Callable[[], Sequence[Placement]],
        user: Callable[[], str],
    ) -> None:
        self._record, self._on_change = record, on_change
        self._placements, self._user = placements, user
        self._facts: dict[NodeName, NodeFacts] = {}
        self._names: dict[str, str] = {}  # of cards that were seen
        self._since_s: dict[tuple[str, bool], float] = {}  # what is so, and for how long; True: gone, False: taken
        self.lost: dict[str, str] = {}  # cards, and why
        self.taken: dict[str, str] = {}  # cards whose memory others have, in words

    @property
    def facts(self) -> tuple[NodeFacts, ...]:
        """Hosts as they are seen now."""
        return tuple(self._facts.values())

    def saw(self, sight: Sight) -> None:
        if sight.facts is None:
            self._facts.pop(sight.node, None)
            return
        self._facts[sight.node] = sight.facts
        for card in sight.facts.accelerators:
            self._names[card.uuid] = f"{card.name} #{card.index} ({card.uuid})"

    def forget(self, nodes: Iterable[NodeName]) -> None:
        """They are hosts of ours no more."""
        for each in nodes:
            self._facts.pop(each, None)

    async def watch(self) -> None:
        """Until cancelled: tell what lasts."""
        while True:
            self.look(time.monotonic())
            await asyncio.sleep(TICK_S)  # that something lasts is no event

    def look(self, now_s: float) -> None:
        """Tell what has been so for long enough by now."""
        by_card: defaultdict[str, list[Placement]] = defaultdict(list)
        # What is deployed and what runs are the same instances, most of the time.
        for placement in {(each.instance, each.accelerators): each for each in self._placements()}.values():
            for uuid in placement.accelerators:
                by_card[uuid].append(placement)
        before = (set(self.lost), set(self.taken))
        for facts in self._facts.values():
            if facts.driver_version is None:
                continue  # a driver that tells nothing says nothing of a card either
            listed = {each.uuid: each for each in facts.accelerators}
            here = {uuid for uuid, on_it in by_card.items() if on_it[0].node == facts.node}
            for uuid in here - listed.keys():
                self._is_missing(facts, uuid, by_card[uuid], now_s)
            for card in listed.values():
                self._is_there(facts.node, card)
                self._is_shared(facts.node, card, by_card.get(card.uuid, ()), now_s)
        if before != (set(self.lost), set(self.taken)):
            self._on_change()

    def unfit(self, placements: Iterable[Placement], cannot_load: Mapping[InstanceId, str]) -> dict[InstanceId, Unfit]:
        """Which of them cannot be where they are: on a card that is gone, or not loading into what others left."""
        found: dict[InstanceId, Unfit] = {}
        for each in placements:
            if gone := next((uuid for uuid in each.accelerators if uuid in self.lost), None):
                found[each.instance] = Unfit(f"{self._name(gone)} of {each.node} is gone", is_hopeless=True)
            elif each.instance in cannot_load and (short := next(filter(self.taken.get, each.accelerators), None)):
                found[each.instance] = Unfit(f"it cannot load: {self.taken[short]}", is_hopeless=False)
        return found

    # --- cards that are gone ------------------------------------------------------------------------------------------

    def _is_missing(self, facts: NodeFacts, uuid: str, on_it: Sequence[Placement], now_s: float) -> None:
        if uuid in self.lost or not self._lasts((uuid, True), now_s):
            return
        said = [each for each in facts.problems if "left out" in each]
        why = said[0] if said else "its driver no longer lists it"
        self.lost[uuid] = why
        names = ", ".join(each.instance for each in on_it)
        self._tell(Moment.CARD_LOST, facts.node, f"{facts.node} has lost {self._name(uuid)}, with {names}: {why}")

    def _is_there(self, node: NodeName, card: Accelerator) -> None:
        self._since_s.pop((card.uuid, True), None)
        if self.lost.pop(card.uuid, None) is not None:
            self._tell(Moment.CARD_BACK, node, f"{node} has {self._name(card.uuid)} again")

    # --- memory that others took --------------------------------------------------------------------------------------

    def _is_shared(self, node: NodeName, card: Accelerator, on_it: Sequence[Placement], now_s: float) -> None:
        """Whether what others hold leaves too little for ours to be loaded again."""
        ours = sum(per_card_bytes(each.footprint, len(each.accelerators)) for each in on_it)
        others = max(foreign_bytes(card, self._user()), card.vram_used_bytes - ours - DRIVER_BYTES)
        room = card.vram_free_bytes + card.vram_used_bytes - others - HEADROOM_BYTES
        if not ours or room >= ours:
            self._since_s.pop((card.uuid, False), None)
            if self.taken.pop(card.uuid, None) is not None:
                self._tell(Moment.VRAM_BACK, node, f"{node}: {self._name(card.uuid)} has room for all of ours again")
        elif card.uuid not in self.taken and self._lasts((card.uuid, False), now_s):
            names = ", ".join(each.instance for each in on_it)
            self.taken[card.uuid] = (
                f"{node}: {others / 2**30:.1f} GiB of {self._name(card.uuid)} are held by {self._who(card)}; "
                f"{names} would not fit again"
            )
            self._tell(Moment.VRAM_TAKEN, node, self.taken[card.uuid])

    def _who(self, card: Accelerator) -> str:
        told = [
            f"{each.name or 'a process'} (pid {each.pid} of {each.user})"
            for each in card.processes
            if each.user and each.user != self._user()
        ]
        return ", ".join(told) or "others"

    def _lasts(self, what: tuple[str, bool], now_s: float) -> bool:
        return now_s - self._since_s.setdefault(what, now_s) >= LASTS_S

    def _name(self, uuid: str) -> str:
        return self._names.get(uuid, uuid)

    def _tell(self, kind: Moment, node: NodeName, text: str) -> None:
        self._record(Event(time.time_ns() // 1_000_000, kind, text, node))
