"""Which instance a call is leased, as the queue's script says it (`store/lua/shared/pool.lua`, `choose`), on values.

The script is what decides in the product; this is its twin for where there is no Redis, and a test holds one against
the other. Left out is what a plan of alike cards in good order has none of: measured speeds, instances in trouble,
conversations that come back, several classes and keys in the line.
"""

from __future__ import annotations

from collections.abc import Sequence


def choose_leased(slots: Sequence[int], used: Sequence[int], turn: int) -> int | None:
    """The place of the instance to lease; None: no slot is free.

    The least loaded by the part of its slots in use; of those alike the one with the most room, then the next in turn.
    `turn`: leases given so far.
    """
    count = len(slots)
    best: int | None = None
    best_load, best_room = 0.0, 0
    for step in range(count):
        at = (turn + step) % count
        room = slots[at] - used[at]
        if room <= 0:
            continue
        load = used[at] / slots[at]
        if best is None or load < best_load or (load == best_load and room > best_room):
            best, best_load, best_room = at, load, room
    return best
