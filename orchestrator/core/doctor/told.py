"""What a check says: how bad it is, what is so, why that hurts, and the command or setting that mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """The worse, the higher."""

    OK = 0
    UNSEEN = 1  # it could not be looked at, and `what` says why
    NOTE = 2  # worth knowing; nobody is hurt yet
    WARNING = 3  # users are served worse than need be, or soon will be
    ERROR = 4  # users are refused, lose something, or strangers get in

    @property
    def word(self) -> str:
        return {Severity.OK: "ok", Severity.UNSEEN: "not looked at"}.get(self, self.name.lower())


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's. `hurts` and `mends` are empty for what is well or could not be looked at."""

    check: str
    severity: Severity
    where: str
    what: str
    hurts: str = ""
    mends: str = ""


@dataclass(frozen=True, slots=True)
class Says:
    """Findings of one check, made shorter."""

    check: str

    def ok(self, where: str, what: str) -> Finding:
        return Finding(self.check, Severity.OK, where, what)

    def unseen(self, where: str, why: str) -> Finding:
        return Finding(self.check, Severity.UNSEEN, where, why)

    def note(self, where: str, what: str, hurts: str, mends: str) -> Finding:
        return Finding(self.check, Severity.NOTE, where, what, hurts, mends)

    def warning(self, where: str, what: str, hurts: str, mends: str) -> Finding:
        return Finding(self.check, Severity.WARNING, where, what, hurts, mends)

    def error(self, where: str, what: str, hurts: str, mends: str) -> Finding:
        return Finding(self.check, Severity.ERROR, where, what, hurts, mends)


def worst(findings: Iterable[Finding]) -> Severity:
    """The worst of them; OK where there are none."""
    return max((each.severity for each in findings), default=Severity.OK)
