"""Files of a cluster that each of its machines is to have, as they lie in Redis: whole, each with revision and seal.

A file that was removed stays there as that. Who may be believed is for those to say who know the seals' secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from orchestrator.core.errors import StoreError
from orchestrator.store import scripts
from orchestrator.store.connection import Connection
from orchestrator.store.schema import KEPT

# Without the first two: of a version of ours that gave no revisions.
_TAG: Final = re.compile(r"(?:(\d{1,15})([+-]))?(\w+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Kept:
    """One of them. `content` None: it was removed. Revision 0: of a version of ours that gave none."""

    revision: int
    seal: str
    content: bytes | None

    @property
    def tag(self) -> str:
        """What tells it from every other state of it."""
        if not self.revision:
            return self.seal
        return f"{self.revision}{'-' if self.content is None else '+'}{self.seal}"


class Version(NamedTuple):
    """Which state they are in: `number` is higher with each change of the ones begun at `epoch`; '': there are none."""

    epoch: str = ""
    number: int = 0


async def version(connection: Connection) -> Version:
    """Raises StoreError."""
    epoch, number = await connection.command(b"HMGET", KEPT, b" ", b"")
    return Version() if epoch is None else Version(epoch.decode(), int(number or 0))


async def read(connection: Connection) -> dict[str, Kept]:
    """All of them, by name. Raises StoreError."""
    found = await connection.command(b"HGETALL", KEPT)
    return {name.decode(): _kept(name, value) for name, value in found.items() if name.strip()}


async def put(connection: Connection, name: str, before: Kept | None, kept: Kept) -> bool:
    """Put one there in the place of `before`. False: it was changed meanwhile. Raises StoreError."""
    args = (name, before.tag if before is not None else "", kept.tag, kept.content or b"")
    return bool(await connection.script(scripts.KEEP, (KEPT,), args, repeat=True))


def _kept(name: bytes, value: bytes) -> Kept:
    tag, space, content = value.partition(b" ")
    read_tag = _TAG.fullmatch(tag.decode(errors="replace"))
    if not space or read_tag is None:
        raise StoreError(f"{KEPT}: {name!r} cannot be read")
    revision, sign, seal = read_tag.groups()
    return Kept(int(revision or 0), seal, None if sign == "-" else content)
