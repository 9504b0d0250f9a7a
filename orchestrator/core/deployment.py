"""What was deployed: the placements that somebody looked at and agreed to, which the controller then keeps.

On hosts that are reached over SSH nothing moves because a file was edited: `ollamactl deploy` shows the difference,
and what it is told to apply becomes the next deployment. Its number grows by one each time; hosts refuse who comes
with an older one. Where a range was agreed to, the number of a pool's instances follows its load within it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.core.model import ModelShape, Placement
from orchestrator.core.numbers import Range


@dataclass(frozen=True, slots=True)
class Deployment:
    """`terms`: by pool, what its instances are started with beyond their placement; `shapes`: each pool's model.

    It says all that an instance is started with: what the settings say by now is the next deployment's affair.
    """

    number: int
    made_at_unix_ms: int
    made_by: str  # who ran `deploy`, on which host
    placements: tuple[Placement, ...]
    shapes: Mapping[str, ModelShape] = field(default_factory=dict)
    terms: Mapping[str, str] = field(default_factory=dict)
    kv_types: Mapping[str, str] = field(default_factory=dict)  # by pool, the type of its KV cache
    program: str = ""  # digest of Ollama's program; empty: what each host has of its own
    ranges: Mapping[str, Range] = field(default_factory=dict)  # of pools whose number follows their load within it
    is_good: bool = False  # every instance of it has served: `rollback` may come back to it
    is_stage: bool = False  # on the way to the next one: a model is brought to one host before the others copy it

    def says_the_same(self, other: Deployment) -> bool:
        """Whether both ask for the same instances, whoever made them and when."""
        mine = (self._asked, self.terms, self.kv_types, self.ranges)
        return mine == (other._asked, other.terms, other.kv_types, other.ranges)

    @property
    def _asked(self) -> dict[str, tuple[object, ...]]:
        return {
            each.instance: (each.pool, each.node, each.accelerators, each.slots, each.context)
            for each in self.placements
        }


def first_stage(whole: Deployment, known_models: Collection[str]) -> Deployment:
    """`whole` with one instance alone of each pool whose model no host has: it fetches what the others then copy."""
    fetching: set[str] = set()
    placements = []
    for each in whole.placements:
        if each.pool in known_models or each.pool not in fetching:
            placements.append(each)
        if each.pool not in known_models:
            fetching.add(each.pool)
    return replace(whole, placements=tuple(placements), is_stage=True)


def last_good(history: tuple[Deployment, ...]) -> Deployment | None:
    """The newest of `history`, oldest first, that was good, came before the last and asks for something else."""
    if not history:
        return None
    now = history[-1]
    before = (each for each in reversed(history[:-1]) if each.is_good and each.placements and not each.is_stage)
    return next((each for each in before if not each.says_the_same(now)), None)
