"""What becomes of a file that several places have: as it was when those last agreed, as it is here, and there.

Each state of a file has a stamp, higher than those of all states before. What is older than what a place has seen is
not taken again, and that there is none says nothing: who removes a file says so with a stamp, too.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, NamedTuple


class Stamp(NamedTuple):
    """Of two, the higher is newer: where two places changed a file at once, its seal says which one stands.

    Revision 0 is of a version of ours that gave none; of such, none is newer than another.
    """

    revision: int = 0
    seal: str = ""


NEVER: Final = Stamp()  # of a file that nobody told of


class Step(Enum):
    """What is to be done about one file."""

    NOTHING = auto()
    NOTED = auto()  # it is here as it is there
    TAKEN = auto()  # from there, or removed where it was removed there
    LOST = auto()  # the same, though it was changed here as well
    GIVEN = auto()  # as it is here, with a stamp above all that are known
    TOLD_AGAIN = auto()  # under the stamp that it has: there it is older, or gone


def step(before: Stamp, there: Stamp, *, is_changed: bool, is_same: bool, is_dated: bool) -> Step:
    """`before`: the highest stamp seen here. `is_changed`: it is otherwise here than under that stamp.

    `is_same`: it is here as it is there. `is_dated`: this place has seen stamps, and takes nothing more without one.
    """
    if is_newer(there, before, is_dated=is_dated):
        if is_same:
            return Step.NOTED
        return Step.LOST if is_changed else Step.TAKEN
    if is_changed:
        return Step.GIVEN
    if there == before:
        return Step.NOTHING
    if before.revision:
        return Step.TOLD_AGAIN
    return Step.GIVEN if there != NEVER else Step.NOTHING


def is_newer(there: Stamp, before: Stamp, *, is_dated: bool) -> bool:
    """Whether what is there was made after what was seen here."""
    if there.revision or before.revision or is_dated:
        return there.revision > 0 and there > before
    return there not in (NEVER, before)
