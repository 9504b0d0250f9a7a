"""What instances on a card serve: calls at once within the goal, tokens a second, seconds an answer.

`physics` says how long work takes; here is what that means for instances that share a card. They share its time by the
slots at work, and each reads weights of its own at every step: two instances of one model write fewer tokens together
than one with all their slots. Everything is worked out for the busiest moment, when every slot is at work. These are
predictions from published numbers, and they are called so wherever they are shown.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.core.cards import CARDS, Card, find_card
from orchestrator.core.model import Accelerator, Demand, NodeFacts, PoolName, UsualCall
from orchestrator.core.physics import decode_step_s, kv_bytes_per_token, prefill_s
from orchestrator.core.placement.rooms import Board

_USUAL: Final = UsualCall()
_MIG_SLICES: Final = 7  # of a card's arithmetic; its memory and bandwidth come in eighths
_SQUEEZED: Final = tuple((re.sub(r"[^a-z0-9]", "", each.name.lower()), each) for each in CARDS)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One instance with `users` calls at work, beside others: what each of them and all together get."""

    users: int
    answer_s: float
    tokens_s_each: float

    @property
    def tokens_s(self) -> float:
        return self.users * self.tokens_s_each


def predict(demand: Demand, card: Card, users: int, others: int = 0) -> Prediction:
    """`users` usual calls at once on an instance alone on its card, or with `others` slots at work beside it.

    Each user has the next call ready: within one answer's time, every other user's prompt is read once as well.
    An instance on several cards works on one of them at a time: `card` is one of them.
    """
    usual = demand.usual or _USUAL
    share = users / (users + others)
    shape = demand.shape
    tokens = min(demand.context, usual.prompt_tokens + usual.answer_tokens)
    live = (
        users * kv_bytes_per_token(shape, demand.kv_type) * min(tokens, usual.prompt_tokens + usual.answer_tokens / 2)
    )
    step_s = decode_step_s(card, shape, live, share)
    reading_s = users * prefill_s(card, shape, min(usual.prompt_tokens, demand.context), share)
    answer_s = reading_s + usual.answer_tokens * step_s
    return Prediction(users, answer_s, usual.answer_tokens / answer_s)


class Serving:
    """Calls that demands' instances serve at once, by card and by what else is on it; each worked out once."""

    def __init__(self, demands: Iterable[Demand], nodes: Iterable[NodeFacts]) -> None:
        self._demands = {each.pool: each for each in demands}
        self._cards = cards_of(nodes)
        self._known: dict[tuple[PoolName, str, int], int] = {}
        # Without a goal a slot is a served call, wherever it is: nothing needs predicting.
        self.is_plain = not any(_goal(each) for each in self._demands.values())

    def card(self, uuid: str) -> Card | None:
        return self._cards.get(uuid)

    def users(self, pool: PoolName, card: Card | None, others: int) -> int:
        """The most calls at once that one instance serves within its goal, with `others` slots at work beside it."""
        demand = self._demands[pool]
        goal_s = _goal(demand)
        if goal_s is None or card is None:
            return demand.slots
        key = (pool, card.name, others)
        if key not in self._known:
            counts = range(demand.slots, 0, -1)
            self._known[key] = next((n for n in counts if predict(demand, card, n, others).answer_s <= goal_s), 0)
        return self._known[key]

    def pattern(self, card: Card | None, pools: Mapping[PoolName, int]) -> dict[PoolName, int]:
        """Calls served by each pool of a card that holds so many instances of each."""
        at_work = sum(self._demands[pool].slots * count for pool, count in pools.items())
        return {
            pool: count * self.users(pool, card, at_work - self._demands[pool].slots)
            for pool, count in pools.items()
            if count
        }

    def served(self, board: Board) -> Counter[PoolName]:
        """Calls served by each pool of known demand, over the whole board."""
        if self.is_plain:
            return Counter({pool: board.counts[pool] * each.slots for pool, each in self._demands.items()})
        at_work: Counter[str] = Counter()
        for each in board.placed:
            for key in each.accelerators or (each.node,):
                at_work[key] += each.slots
        found: Counter[PoolName] = Counter()
        for each in board.placed:
            demand = self._demands.get(each.pool)
            if demand is None:
                continue
            if not each.accelerators:  # on a CPU answers take many times as long
                found[each.pool] += demand.slots if _goal(demand) is None else 0
                continue
            others = max(at_work[key] for key in each.accelerators) - each.slots
            found[each.pool] += self.users(each.pool, self._cards.get(each.accelerators[0]), others)
        return found

    def change(self, board: Board, demand: Demand, rooms: Sequence[str]) -> Counter[PoolName]:
        """What one more copy of `demand` on these cards adds to the calls served, and what it takes from others there.

        Of an instance on several cards only the first is looked at.
        """
        if self.is_plain or not rooms or rooms[0] not in self._cards:
            return Counter({demand.pool: demand.slots})
        here = Counter(pool for pool in board.rooms[rooms[0]].pools if pool in self._demands)
        card = self._cards[rooms[0]]
        found = Counter(self.pattern(card, here + Counter({demand.pool: 1})))
        found.subtract(self.pattern(card, here))
        return found


def cards_of(nodes: Iterable[NodeFacts]) -> dict[str, Card]:
    """The published numbers of each accelerator, by UUID; one whose name says nothing is left out."""
    found: dict[str, Card] = {}
    whole: dict[str, Accelerator] = {}
    slices: defaultdict[str, list[Accelerator]] = defaultdict(list)
    for node in nodes:
        for each in node.accelerators:
            if each.parent_uuid is None:
                whole[each.uuid] = each
            else:
                slices[each.parent_uuid].append(each)
    for uuid, accelerator in whole.items():
        card = known_card(accelerator.name, accelerator.vram_total_bytes)
        if card is None:
            continue
        found[uuid] = card
        for each in slices[uuid]:
            found[each.uuid] = _slice_of(card, each)
    return found


def known_card(name: str, vram_bytes: int) -> Card | None:
    """The card a driver calls `name`; of several with that name the one with as much memory."""
    try:
        return find_card(name)
    except ValueError:
        pass
    squeezed = re.sub(r"nvidia|geforce|tesla|[^a-z0-9]", "", name.lower())
    # "NVIDIA A100-SXM4-80GB" is an "A100-80GB"; "NVIDIA A100 80GB PCIe" as well.
    able = [card for word, card in _SQUEEZED if squeezed.startswith(re.sub(r"\d+gb$", "", word))]
    near = [card for card in able if abs(card.vram_bytes - vram_bytes) * 8 <= card.vram_bytes]
    return max(near, key=lambda card: len(card.name), default=None)


def _slice_of(card: Card, part: Accelerator) -> Card:
    """A MIG device has its part of the memory's bandwidth with the memory, and its sevenths of the arithmetic."""
    memory = min(1.0, part.vram_total_bytes / card.vram_bytes)
    found = re.search(r"(\d)g\.", part.name)
    arithmetic = int(found[1]) / _MIG_SLICES if found else memory
    return replace(
        card,
        name=f"{card.name} {part.name}",
        vram_bytes=part.vram_total_bytes,
        bandwidth_bytes_s=card.bandwidth_bytes_s * memory,
        fp16_flops=card.fp16_flops * arithmetic,
    )


def _goal(demand: Demand) -> float | None:
    return demand.usual.answer_s if demand.usual is not None else None
