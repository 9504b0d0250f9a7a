"""The Lua scripts, read from the package once. What each does, takes and answers is said at its head."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "lua"


@dataclass(frozen=True, slots=True)
class Script:
    """One change of state: its source, and the digest by which Redis knows it."""

    name: str
    source: str
    sha: str

    @classmethod
    def load(cls, name: str, *, of_pool: bool = True) -> Script:
        """Read lua/<name>.lua; a script of a pool has what all of them share put in front."""
        source = (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
        if of_pool:
            source = (_FOLDER / "pool.lua").read_text(encoding="utf-8") + source
        return cls(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


PUBLISH = Script.load("publish")
ADMIT = Script.load("admit")
SETTLE = Script.load("settle")
CANCEL = Script.load("cancel")
RENEW = Script.load("renew")
SWEEP = Script.load("sweep")
DROP_HOLDER = Script.load("drop_holder")
INSPECT = Script.load("inspect")
LEAD = Script.load("lead", of_pool=False)
RESIGN = Script.load("resign", of_pool=False)
ANNOUNCE = Script.load("announce", of_pool=False)
RECALL = Script.load("recall", of_pool=False)
