"""Privacy classes: how far a text may go. Of several that apply, the strictest wins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType

from orchestrator.core.privacy.finding import Found, Kind


class Privacy(StrEnum):
    """From the most open to the strictest."""

    PUBLIC = "public"  # may go anywhere
    INTERNAL = "internal"  # may go to providers that the settings trust
    LOCAL = "local"  # never leaves the cluster, in whatever form


_STRICTNESS = {each: rank for rank, each in enumerate(Privacy)}

# What each kind makes of a text by default. Addresses and telephone numbers stand under half of all e-mail; the others
# identify somebody, open something, or tell of an illness; who lists words of their own means them to stay.
DEFAULT_CLASSES: Mapping[Kind, Privacy] = MappingProxyType({
    Kind.EMAIL: Privacy.INTERNAL,
    Kind.PHONE: Privacy.INTERNAL,
    Kind.IBAN: Privacy.LOCAL,
    Kind.IDENTITY: Privacy.LOCAL,
    Kind.CARD: Privacy.LOCAL,
    Kind.SECRET: Privacy.LOCAL,
    Kind.HEALTH: Privacy.LOCAL,
    Kind.WORD: Privacy.LOCAL,
})  # fmt: skip


def strictest(classes: Iterable[Privacy]) -> Privacy:
    """The strictest of `classes`; `public` of none."""
    return max(classes, key=_STRICTNESS.__getitem__, default=Privacy.PUBLIC)


def may_leave(text: Privacy, accepted: Privacy) -> bool:
    """Whether a text of this class may go outside, to who is trusted with texts up to `accepted`.

    A `local` text never may, whatever is accepted there.
    """
    return text is not Privacy.LOCAL and _STRICTNESS[text] <= _STRICTNESS[accepted]


def class_of(kind: Kind, classes: Mapping[Kind, Privacy] = DEFAULT_CLASSES) -> Privacy:
    """How far a text may go in which this was found. A kind that `classes` does not name is `local`."""
    return classes.get(kind, Privacy.LOCAL)


def classify(found: Iterable[Found], classes: Mapping[Kind, Privacy] = DEFAULT_CLASSES) -> Privacy:
    """How far a text may go that this was found in."""
    return strictest(class_of(each.kind, classes) for each in found)
