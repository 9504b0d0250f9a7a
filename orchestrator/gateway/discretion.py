"""How far a call may go: its class, by what its route, its key and its caller say and by what stands in it.

A call is looked into only where one of its tiers is outside the cluster: any other costs nothing here. What cannot be
judged is `local`. The last word is `see_that_it_may_leave`'s, which every way out asks before it sends a byte.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Final

from orchestrator import telemetry
from orchestrator.core.errors import CallerError, OrchestratorError
from orchestrator.core.model import Call
from orchestrator.core.privacy import Discretion, Privacy, judge, may_leave, strictest, texts_of
from orchestrator.core.privacy import Rules as PrivacyRules
from orchestrator.gateway.asked import Asked
from orchestrator.gateway.identity import Caller
from orchestrator.gateway.live import Rules, Tier

log = logging.getLogger(__name__)

# What a caller may say of its call: it can make the class stricter, and never the other way.
PRIVACY: Final = b"x-privacy"
# Texts of a larger body are gathered and searched in a thread: about a millisecond on one core. There is one, because
# it is the interpreter that they wait for: more of them would keep the loop from its turn for longer.
ON_LOOP_BYTES: Final = 2048
_SEARCHING: Final = ThreadPoolExecutor(1, "searching")
# Of texts that were asked lately it is known whether they are private; longer ones are not searched to be shared.
KNOWN_TEXTS: Final = 1024
MORE: Final = "what cannot be searched: images, files or tokens"


def may_go(discretion: Discretion, tier: Tier) -> bool:
    """Whether a call may be answered by this tier. A pool of the cluster may answer every call."""
    return not tier.is_outside or may_leave(discretion.privacy, tier.accepts)


async def allowed(asked: Asked, rules: Rules, tiers: Sequence[Tier]) -> tuple[Tier, ...]:
    """Those of `tiers` that the call may go to, in their order; where all are pools, without a look at the call.

    Raises CallerError 403 where it may go to none of them, 400 for a class that is none.
    """
    if not any(tier.is_outside for tier in tiers):
        return tuple(tiers)
    discretion = await discretion_of(asked, rules)
    may = tuple(tier for tier in tiers if may_go(discretion, tier))
    if not may and tiers:
        raise _nowhere(asked.name, discretion)
    return may


async def discretion_of(asked: Asked, rules: Rules) -> Discretion:
    """The call's class and why, found once. Raises CallerError 400 for a class that is none."""
    if asked.trace.discretion is None:
        stated = asked.request.header(PRIVACY) if PRIVACY in asked.request.headers else None
        said = said_of(asked.name, asked.trace.caller, stated, rules)
        if said.privacy is not Privacy.LOCAL:
            said = stricter(said, await _found_in(asked, rules))
        telemetry.TALLY.count(telemetry.PRIVACY, (said.privacy,))
        asked.trace.discretion = said
    return asked.trace.discretion


def said_of(name: str, caller: Caller, stated: str | None, rules: Rules) -> Discretion:
    """The class by what is said of a call of this route, before anybody looks into it. `stated`: by its caller.

    Raises CallerError 400.
    """
    route = rules.routes.get(name)
    said = [Discretion(rules.privacy.default, "the default")]
    if route is not None and route.privacy is not None:
        said.append(Discretion(route.privacy, f"route {route.name}"))
    if caller.privacy is not None:
        said.append(Discretion(caller.privacy, f"key {caller.name}"))
    if stated is not None:
        said.append(Discretion(class_of(stated), "X-Privacy"))
    return stricter(*said)


def class_of(given: str) -> Privacy:
    """The class that a caller states. Raises CallerError 400 where it is none."""
    try:
        return Privacy(given.strip().lower())
    except ValueError:
        raise CallerError(400, f"X-Privacy: {_either(Privacy)} is wanted") from None


def see_that_it_may_leave(asked: Asked, tier: Tier) -> None:
    """The gate before every way out. Raises where the call was not judged, or may not go there: a mistake of ours."""
    discretion = asked.trace.discretion
    if discretion is None or not may_go(discretion, tier):
        told = "its class is not known" if discretion is None else f"it is {discretion.privacy}"
        raise OrchestratorError(f"a call was to be sent to {tier.name}, outside the cluster, and {told}")


def judged(call: Call, rules: Rules) -> Discretion:
    """The class of a call by what stands in it; `local` where that cannot be told."""
    try:
        texts = texts_of(call.body)
        found = judge(texts.joined, rules.privacy) if rules.privacy.detects else Discretion(Privacy.PUBLIC)
        return stricter(found, Discretion(rules.privacy.more, MORE)) if texts.has_more else found
    except Exception as why:  # noqa: BLE001 (whatever it is that no finder was made for: it stays in the house)
        log.error("a call could not be searched and is local: %s", type(why).__name__)
        return Discretion(Privacy.LOCAL, "it could not be searched")


class Private:
    """Which calls hold private matter, for who would give one caller what another one asked for."""

    def __init__(self) -> None:
        self._rules: PrivacyRules | None = None

    def has(self, call: Call, rules: PrivacyRules) -> bool:
        """Whether a call may hold any; of one that is too long to be searched on the loop it is taken for granted."""
        if not rules.detects:
            return False
        if rules is not self._rules:
            self._rules = rules
            self._is_found = lru_cache(KNOWN_TEXTS)(lambda text: judge(text, rules).privacy is not Privacy.PUBLIC)
        try:
            texts = texts_of(call.body)
            return texts.has_more or len(texts.joined) > ON_LOOP_BYTES or self._is_found(texts.joined)
        except Exception as why:  # noqa: BLE001 (as above)
            log.error("a call could not be searched and is not shared: %s", type(why).__name__)
            return True


async def _found_in(asked: Asked, rules: Rules) -> Discretion:
    if asked.size <= ON_LOOP_BYTES:
        return judged(asked.call, rules)
    return await asyncio.get_running_loop().run_in_executor(_SEARCHING, judged, asked.call, rules)


def stricter(*several: Discretion) -> Discretion:
    """The strictest, with the reasons of all that are as strict, but for the default where there is another."""
    privacy = strictest(each.privacy for each in several)
    whys = [each.why for each in several if each.privacy is privacy and each.why]
    return Discretion(privacy, ", ".join(whys[1:] if len(whys) > 1 and whys[0] == "the default" else whys))


def _nowhere(name: str, discretion: Discretion) -> CallerError:
    told = f"this call is {discretion.privacy} ({discretion.why}), and {name} has no target that may answer such a call"
    return CallerError(403, told, "permission_error")


def _either(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}"
