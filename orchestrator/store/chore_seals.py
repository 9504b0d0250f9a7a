"""Which changes of models were asked for by a machine of the cluster, and are still to be done.

Redis is asked for nothing here that whoever can write to it may not have written: what is asked and what is told is
sealed under a key that Redis has not, each seal bound to what it is about. A change that was sealed may be put back
once it is over: what is over is remembered for as long as its seals may still be taken for new ones.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from orchestrator.core.chores import Chore, Ending

# What was asked for or told longer ago is begun by nobody: its caller was told so meanwhile.
VALID_S: Final = 300.0
NOT_SEALED: Final = (
    "it was not asked for with this cluster's secret: give all machines of a cluster the same `cache.secret`, or the "
    "same cache.key in their state folders"
)
IS_OVER: Final = "it was done or given up before"
TOO_OLD: Final = f"nobody was at work on it, and it was asked for more than {VALID_S:g} s ago: ask again"

_CHORE: TypeAdapter[Chore] = TypeAdapter(Chore)
_ENDING: TypeAdapter[Ending] = TypeAdapter(Ending)
_ID: Final = re.compile(r"[0-9a-f]{32}")


class Seals:
    """Under one key. Each takes the parts that it is about apart: none may be moved from one to the next."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, *parts: bytes) -> bytes:
        made = hashlib.blake2b(key=self._key, digest_size=16)
        for each in parts:
            made.update(len(each).to_bytes(8, "big") + each)
        return made.hexdigest().encode()

    def holds(self, seal: bytes, *parts: bytes) -> bool:
        return hmac.compare_digest(seal, self.of(*parts))

    # --- what is asked ------------------------------------------------------------------------------------------------

    def asked(self, chore: Chore) -> bytes:
        """It, as it lies in Redis: id, time, seal, JSON."""
        payload = orjson.dumps(asdict(chore))
        seal = self.of(b"asked", chore.digest.encode(), payload)
        return b"%s %d %s %s" % (chore.id.encode(), chore.at_ms, seal, payload)

    def read_asked(self, place: bytes, kept: bytes) -> Chore | None:
        """None where nobody with the key asked for it, or for it there. Raises ValueError for what is not known."""
        parts = kept.split(b" ", 3)
        if len(parts) != 4 or not self.holds(parts[2], b"asked", place, parts[3]):
            return None
        try:
            chore = _CHORE.validate_json(parts[3])
        except ValidationError as why:
            raise ValueError(str(why)) from why
        return chore if _ID.fullmatch(chore.id) and parts[0] == chore.id.encode() else None

    # --- what is told -------------------------------------------------------------------------------------------------

    def told(self, chore: Chore, told: bytes) -> bytes:
        """The seal of what is told of it."""
        return self.of(b"told", chore.digest.encode(), chore.id.encode(), told)

    def read_told(self, chore: Chore, entry: Iterable[bytes]) -> dict[str, Any] | None:
        """An entry of its stream; None where nobody with the key told it."""
        fields = list(entry)
        found = dict(zip(fields[::2], fields[1::2], strict=False))
        told, seal = found.get(b"t", b""), found.get(b"s", b"")
        if not self.holds(seal, b"told", chore.digest.encode(), chore.id.encode(), told):
            return None
        read: dict[str, Any] = orjson.loads(told)
        return read


def end_of(told: dict[str, Any]) -> Ending | None:
    """The end that it tells, if it does."""
    return _ENDING.validate_python(told["end"]) if "end" in told else None


class Memory:
    """Of one process, however often it leads: what is under way, and what is over."""

    def __init__(self) -> None:
        self._going: dict[str, None] = {}
        self._over: dict[str, float] = {}  # with when it may be forgotten

    def saw(self, ids: Iterable[str]) -> None:
        """These are there: what was, and is no more, is over."""
        still = set(ids)
        for each in [each for each in self._going if each not in still]:
            self.is_over(each)
        now = time.monotonic()
        self._over = {each: until for each, until in self._over.items() if until > now}

    def goes(self, chore_id: str) -> bool:
        return chore_id in self._going

    def begins(self, chore_id: str) -> None:
        self._going[chore_id] = None

    def is_over(self, chore_id: str) -> None:
        """Its last words were told just now, so that their seals are too old before this is forgotten."""
        self._going.pop(chore_id, None)
        self._over[chore_id] = time.monotonic() + 2 * VALID_S

    def was(self, chore_id: str) -> bool:
        """Whether it is over."""
        return chore_id in self._over
