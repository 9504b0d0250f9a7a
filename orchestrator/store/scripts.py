"""The Lua scripts, read from the package once. What each does, takes and answers is said at its head."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "lua"
_CONSTANT = re.compile(r"^local (?P<name>[A-Z_]+) = (?P<value>.+?)(?: --.*)?\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One change of state: its source, and the digest by which Redis knows it."""

    name: str
    source: str
    sha: str

    @classmethod
    def load(cls, name: str, *parts: str, of_pool: bool = True) -> Script:
        """Read lua/<name>.lua, its parts in front; a script of a pool has what all of them share around it."""
        source = "".join(_read(f"{each}.lua") for each in (*parts, name))
        if of_pool:
            source = _in_pool(source)
        return cls(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

    @classmethod
    def of_budget(cls, name: str) -> Script:
        """Read lua/<name>.lua, what all scripts of budgets share before it."""
        source = _without_constants(_read("shared/budget.lua"), _read(f"{name}.lua"))
        return cls(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _in_pool(script: str) -> str:
    """A script with what all scripts of a pool share, in the form that Lua begins fastest: it begins anew each time.

    Lua walks through all captured locals of a running function for each that another one captures, and takes an outer
    function's in one step: hence a function around all functions. Together with `_without_constants` that is 5 us of
    some 20 a script.
    """
    inner = "".join((_read("shared/pool.lua"), _read("shared/queue.lua"), script))
    return _without_constants(_read("shared/state.lua"), f"return (function()\n{inner}end)()\n")


def _without_constants(head: str, *rest: str) -> str:
    """Lua has no constants: a local that never changes is captured like any other. Its value is put in its places."""
    source = _CONSTANT.sub("", head) + "".join(rest)
    values = {each["name"]: each["value"] for each in _CONSTANT.finditer(head)}
    # All in one pass: one for each constant takes every process that starts 80 ms.
    return re.sub(rf"\b(?:{'|'.join(values)})\b", lambda found: values[found[0]], source) if values else source


def _read(path: str) -> str:
    return (_FOLDER / path).read_text(encoding="utf-8")


PUBLISH = Script.load("publish")
CALLS = Script.load("calls", "settle", "admit", "join")
CANCEL = Script.load("cancel")
RENEW = Script.load("renew")
SWEEP = Script.load("sweep")
DROP_HOLDER = Script.load("drop_holder")
INSPECT = Script.load("inspect")
LEAD = Script.load("lead", of_pool=False)
RESIGN = Script.load("resign", of_pool=False)
ANNOUNCE = Script.load("announce", of_pool=False)
MEET = Script.load("meet", of_pool=False)
KEEP = Script.load("keep", of_pool=False)
ASK_CHORE = Script.load("ask_chore", of_pool=False)
TELL_CHORE = Script.load("tell_chore", of_pool=False)
RECALL = Script.load("recall", of_pool=False)
RECKON = Script.load("reckon", of_pool=False)
DISOWN = Script.load("disown", of_pool=False)
RESERVE = Script.of_budget("reserve")
SPEND = Script.of_budget("spend")
HOLD = Script.of_budget("hold")
HEED = Script.of_budget("heed")
