"""Whose a host is: the place that deploys to it, and the highest numbers of a deployment and a controller it has seen.

Looked at and changed within `work.alone`: of two who come at once one is told of the other.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from orchestrator.nodes.onhost.work import STATE, Refused, Told, Work
from orchestrator.whole_file import write_whole

if TYPE_CHECKING:
    from pathlib import Path

FILE = STATE + "/owner.json"
# A controller's token is the time (ms) at which it began to lead. One from further ahead was made up, or comes of a
# wrong clock: the host goes by none such, which would keep every honest controller out for good.
AHEAD_MS = 3_600_000


def recorded(work: Work) -> dict[str, Any] | None:
    """Who has the host; None where nobody has. Raises Refused for what cannot be read."""
    path = work.at(FILE)
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        numbers = {"number": int(owner["number"]), "leader": int(owner.get("leader", 0))}
        return {"place": str(owner["place"]), **numbers, "by": owner["by"], "at": owner["at"]}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{FILE} does not say whose this host is; remove it, or deploy with `--take-over`") from error


def claim(work: Work, place: str, number: int, by: str, take_over: bool) -> Told:
    """Be the host's owner from now on, or refuse."""
    try:
        before = recorded(work)
    except Refused:
        if not take_over:
            raise
        before = None
    if before is not None and not take_over:
        refuse_others(before, place, number)
    words = f"{place}, deployment {number}"
    if before is not None and (before["place"], before["number"]) == (place, number):
        return False, words
    if not work.is_dry:
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        leader = before["leader"] if before is not None and before["place"] == place and not take_over else 0
        _write(work.at(FILE), {"place": place, "number": number, "by": by, "at": at, "leader": leader})
    return True, words if before is None or before["place"] == place else f"{words}, taken over from {before['place']}"


def hold(work: Work, place: str, number: int, leader: int = 0) -> Told:
    """Go on only where the host is still that deployment's. `leader`: the token of a controller that is one of several.

    The host remembers the highest: whoever led before, and does not know yet that it is over, is refused. One that is
    far ahead of the host's own clock is neither remembered nor gone by.
    """
    now = recorded(work)
    if now is None:
        raise Refused("the host is nobody's any more: it was destroyed meanwhile")
    refuse_others(now, place, number)
    latest = int(time.time() * 1000) + AHEAD_MS
    seen = now["leader"] if now["leader"] <= latest else 0
    if leader and leader < seen:
        raise Refused("another controller leads: the host has seen a later one; `--take-over` forgets it")
    is_new = seen < leader <= latest
    if is_new and not work.is_dry:
        _write(work.at(FILE), {**now, "leader": leader})
    return is_new, f"{place}, deployment {number}"


def refuse_others(now: dict[str, Any], place: str, number: int) -> None:
    since = f"{now['by']} at {now['at']}"
    if now["place"] != place:
        raise Refused(f"the host is {now['place']}'s (deployment {now['number']}, {since}); `--take-over` takes it")
    if now["number"] > number:
        raise Refused(
            f"the host has deployment {now['number']} already ({since}), this is {number}: somebody deployed "
            "meanwhile; look at `ollamactl plan` and deploy again"
        )


def _write(path: Path, owner: dict[str, Any]) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_whole(path, json.dumps(owner) + "\n", mode=0o644)
