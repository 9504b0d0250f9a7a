"""What becomes of files that several places have: as they were when those last agreed, as they are here, and there.

Files are known by digests of what is in them; '' is one that there is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Differences:
    """Names of files to be `taken` from there, or gone where they are gone there; and those to be `given`.

    `lost`: of those taken, what was changed here as well, otherwise.
    """

    taken: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def differences(agreed: Mapping[str, str], here: Mapping[str, str], there: Mapping[str, str]) -> Differences:
    """What makes both the same. Who changed a file alone has its way; where both did, there has."""
    taken, given, lost = [], [], []
    for name in sorted({*here, *there}):
        before, ours, theirs = agreed.get(name, ""), here.get(name, ""), there.get(name, "")
        if ours == theirs:
            continue
        if theirs == before:
            given.append(name)
            continue
        taken.append(name)
        if ours != before:
            lost.append(name)
    return Differences(tuple(taken), tuple(given), tuple(lost))
