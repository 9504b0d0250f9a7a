"""One server that somebody else runs, with what was found out of it by working with it.

What can be seen of it by looking is `watching`'s. Here is what its memory holds, how long loads take there, how many
calls it serves at once, and what is being done with it just now.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.core.loads import Loads
from orchestrator.core.model import Engine
from orchestrator.core.residency import Move
from orchestrator.fleet.offering import Standing
from orchestrator.fleet.watching import Watched

# How many models fit is found out by one having to go. It may have gone for another reason, or others are smaller.
FOUND_OUT_FOR_S = 600.0


@dataclass(slots=True)
class Place:
    """A server, and what is known of loading there. Who moves models there writes it down here."""

    watched: Watched
    move: Move | None = None
    found_room: int | None = None
    found_room_s: float = 0.0
    troubles: dict[str, str] = field(default_factory=dict)
    retry_s: dict[str, float] = field(default_factory=dict)
    loads: Loads = field(default_factory=Loads)
    found_slots: dict[str, int] = field(default_factory=dict)
    probing: str = ""
    silent: dict[str, str] = field(default_factory=dict)  # models that answer nobody, and what is done about it
    unprobable: set[str] = field(default_factory=set)  # for a while

    @property
    def room(self) -> int | None:
        if self.watched.server.room is not None:
            return self.watched.server.room
        is_fresh = time.monotonic() - self.found_room_s < FOUND_OUT_FOR_S
        return self.found_room if is_fresh else None

    @property
    def standing(self) -> Standing:
        move = self.move
        return Standing(
            self.watched.server,
            self.watched.sight,
            self.room,
            move.pool if move is not None else "",
            frozenset(move.vacates) if move is not None else frozenset(),
            dict(self.troubles),
            self.loads,
            dict(self.found_slots),
            self.probing,
            dict(self.silent),
        )

    def loadable(self) -> Sequence[str]:
        """Models that could be brought into its memory, or are there."""
        sight = self.watched.sight
        if not sight.is_up or sight.running is None:
            return ()
        models = sight.models
        return [
            each
            for each in self.standing.pools
            if each in models and not models[each].remote_host and each not in self.troubles and each not in self.silent
        ]

    def forget_what_a_restart_changes(self) -> None:
        """A server that was away, or has nothing in memory though nobody here emptied it, may serve otherwise now."""
        sight = self.watched.sight
        if not sight.is_up or (sight.running is not None and not sight.running and self.move is None):
            self.found_slots.clear()

    def is_to_be_probed(self, pool: str) -> bool:
        """Whether the settings want it, and it is in memory and can be asked."""
        sight, entry = self.watched.sight, self.watched.server.entry_of(pool)
        if entry is None or entry.slots != "probe" or sight.engine is not Engine.OLLAMA or not sight.is_up:
            return False
        model = sight.models.get(pool)
        is_done = pool in self.found_slots or pool in self.unprobable
        return model is not None and not model.is_embedding and pool in sight.resident and not is_done

    def unprobed(self) -> str:
        """A model to be asked how many calls of it are served at once; '' none."""
        return next((each for each in self.standing.pools if self.is_to_be_probed(each)), "")
