"""What an operator wants of instances that run, apart from what was deployed: some drained, some started anew."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wishes:
    """`drained` holds until it is taken back; `restarts` are done once each, and gone then."""

    drained: frozenset[str] = frozenset()  # instances, and nodes with all of theirs
    restarts: frozenset[str] = frozenset()  # instances

    def is_drained(self, instance: str, node: str) -> bool:
        """Whether an instance of `node` is to get nothing new."""
        return instance in self.drained or node in self.drained
