"""Which master of a Redis Cluster has a key: the key's slot, and who has which slots. No input or output.

Redis Cluster specification, "Key distribution model" and "Hash tags".
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

SLOTS: Final = 16_384

Host = tuple[str, int]


def slot_of(key: bytes) -> int:
    """CRC-16/XMODEM of the key, or of what stands between its first `{` and the next `}`, modulo 16,384."""
    _, opened, rest = key.partition(b"{")
    tag, closed, _ = rest.partition(b"}")
    return binascii.crc_hqx(tag if opened and closed and tag else key, 0) % SLOTS


@dataclass(frozen=True, slots=True)
class Ranges:
    """Who has which slots: (first, last, master), by the first."""

    ranges: tuple[tuple[int, int, Host], ...] = ()

    @classmethod
    def told(cls, reply: Sequence[Sequence[Any]], asked: Host) -> Ranges:
        """As `CLUSTER SLOTS` has it; a server that does not know its own address is where it was `asked`."""
        found = []
        for first, last, master, *_ in reply:
            name = (master[0] or b"").decode()
            found.append((int(first), int(last), (name or asked[0], int(master[1]))))
        return cls(tuple(sorted(found)))

    @property
    def masters(self) -> tuple[Host, ...]:
        """Each once, by its first slot."""
        return tuple(dict.fromkeys(master for _, _, master in self.ranges))

    @property
    def is_whole(self) -> bool:
        """Whether every slot has a master."""
        free = 0
        for first, last, _ in self.ranges:
            if first != free:
                return False
            free = last + 1
        return free == SLOTS

    def by_slot(self) -> list[Host | None]:
        """The master of each slot; None: nobody."""
        found: list[Host | None] = [None] * SLOTS
        for first, last, master in self.ranges:
            found[first : last + 1] = [master] * (last + 1 - first)
        return found
