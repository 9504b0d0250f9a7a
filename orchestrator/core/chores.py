"""Changes of which models there are, done on every node for who asked: what is asked, how far it is, what came of it.

The words are Ollama's. Who carries a change out, and where, is left to others.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from orchestrator.core.catalogue import is_cloud_model
from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.manifests import split_name

# What Ollama's last line says of each kind of work.
SUCCESS: Final = "success"
_BLOB: Final = re.compile(r"sha256:[0-9a-f]{64}")
# Fields of a body that name models.
_NAMES: Final = ("model", "from", "source", "destination")
_LONGEST_REASON: Final = 500


class ChoreKind(StrEnum):
    """What is to be done. `BLOB` changes nothing: it asks who lacks one."""

    PULL = "pull"
    PUSH = "push"
    CREATE = "create"
    COPY = "copy"
    DELETE = "delete"
    BLOB = "blob"

    @property
    def has_progress(self) -> bool:
        """Ollama tells how far it is, line by line."""
        return self in (ChoreKind.PULL, ChoreKind.PUSH, ChoreKind.CREATE)


# What is passed on of a body, beside the model. Names and passwords of registries, which Ollama ignores, lie in no
# Redis.
PASSED_ON: Final[Mapping[ChoreKind, tuple[str, ...]]] = {
    ChoreKind.PULL: ("insecure",),
    ChoreKind.PUSH: ("insecure",),
    ChoreKind.CREATE: (
        "from", "files", "adapters", "quantize", "template", "license", "system", "parameters", "messages", "renderer",
        "parser", "requires", "info",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chore:
    """One change as it was asked for. `body`: as Ollama takes it, whatever the form of its answer."""

    kind: ChoreKind
    body: Mapping[str, Any]
    who: str = ""  # a key's name
    id: str = ""  # of this run of it
    at_ms: int = 0  # when it was asked for, by Redis' clock

    @property
    def subject(self) -> str:
        """What it is about, for people: a model, or a blob."""
        return str(self.body.get("model") or self.body.get("source") or self.body.get("digest") or "")

    @property
    def what(self) -> str:
        """What it is about, for an audit: also what a model is made of, and what a copy is called."""
        if self.kind is ChoreKind.COPY:
            return f"{self.subject} to {self.body.get('destination')}"
        origin = self.body.get("from")
        return f"{self.subject} from {origin}" if origin else self.subject

    @property
    def replaced(self) -> str:
        """The model that is no more what it was once this is done; a pull brings what its name stands for anyway."""
        if self.kind is ChoreKind.COPY:
            return str(self.body.get("destination", ""))
        return self.subject if self.kind in (ChoreKind.CREATE, ChoreKind.DELETE) else ""

    @property
    def names(self) -> frozenset[str]:
        """The models that it reads or changes."""
        return frozenset(canonical_model_name(str(self.body[each])) for each in _NAMES if self.body.get(each))

    @property
    def digest(self) -> str:
        """The same for all that ask for the same, however they spell it."""
        names = {each: canonical_model_name(str(self.body[each])) for each in _NAMES if self.body.get(each)}
        told = json.dumps([self.kind, {**self.body, **names}], sort_keys=True)
        return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended: an HTTP status, in words where it is no success, and what else was found."""

    status: int = 200
    error: str = ""
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_success(self) -> bool:
        return not self.error


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it on one node; `error` empty: it is done there. `status`: as Ollama answered, 0 where none did."""

    node: str
    status: int = 200
    error: str = ""

    @property
    def is_done(self) -> bool:
        return not self.error

    @property
    def is_missing(self) -> bool:
        return self.status == 404


def is_blob(digest: str) -> bool:
    """Whether it is a blob's name as Ollama has them."""
    return _BLOB.fullmatch(digest) is not None


def why_not(chore: Chore) -> str:
    """Why nobody may have asked for this: no gateway passes it on. Empty: it may be done."""
    if chore.kind is ChoreKind.BLOB:
        return "" if set(chore.body) == {"digest"} and is_blob(chore.subject) else "that is no blob"
    names = ("source", "destination") if chore.kind is ChoreKind.COPY else ("model",)
    if odd := sorted(set(chore.body).difference(names, PASSED_ON.get(chore.kind, ()))):
        return f"{', '.join(odd)}: that is not passed on"
    for each in names:
        name = chore.body.get(each)
        if not isinstance(name, str) or split_name(name) is None:
            return f"{each} is no model's name"
    if not isinstance(chore.body.get("from", ""), str) or not isinstance(chore.body.get("insecure", False), bool):
        return "from is no name, or insecure neither true nor false"
    if would_leave(chore.kind, chore.body):
        return f"{chore.subject} would be served by somebody else: prompts would leave the cluster"
    return ""


def would_leave(kind: ChoreKind, body: Mapping[str, Any]) -> bool:
    """Whether a model of it would be served by ollama.com; such a one may be copied and deleted."""
    if kind in (ChoreKind.COPY, ChoreKind.DELETE):
        return False
    return any(is_cloud_model(str(body.get(each, ""))) for each in ("model", "from"))


def ending(chore: Chore, outcomes: Sequence[Outcome], *, was_begun: bool = False) -> Ending:
    """What came of it on all nodes together.

    A model is copied and deleted where it is: nodes without it are none that failed, unless none has it. One that
    was begun by a controller that is gone may have been deleted by that one.
    """
    if not outcomes:
        return Ending(503, "no server of the cluster keeps models of its own that could be changed")
    counted = list(outcomes)
    if chore.kind in (ChoreKind.COPY, ChoreKind.DELETE):
        counted = [each for each in outcomes if not each.is_missing]
        if not counted:
            return Ending() if was_begun and chore.kind is ChoreKind.DELETE else _failed(outcomes[0])
    failed = [each for each in counted if not each.is_done]
    if not failed:
        return Ending()
    if len(failed) == len(counted) and len({each.error for each in failed}) == 1:
        return _failed(failed[0])  # it is not the nodes' fault, and Ollama's own words say what it is
    whys = "; ".join(f"{each.node}: {each.error}" for each in failed)
    done = [each.node for each in counted if each.is_done]
    rest = f"; done on {', '.join(done)}" if done else ""
    what = f"{chore.kind} of {chore.subject} failed on {len(failed)} of {len(counted)} nodes"
    return Ending(500, f"{what}: {whys}{rest}")


def _failed(outcome: Outcome) -> Ending:
    return Ending(outcome.status if outcome.status >= 400 else 500, outcome.error)


def shortened(reason: str) -> str:
    """What a server said, as much of it as fits beside what others said."""
    return reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 1] + "…"


class Progress:
    """What several nodes say while they do the same, told as one Ollama would tell it.

    Of a layer the mean of what the nodes have is told: it ends where all of them have it whole. A line of another
    kind is told once the last node has come so far; the first line of all at once.
    """

    def __init__(self) -> None:
        self._working: set[str] = set()
        self._count = 1
        self._parts: dict[str, _Layer | _Line] = {}  # in the order in which they were first said

    def begins(self, nodes: Iterable[str]) -> None:
        """These do it."""
        self._working = set(nodes)
        self._count = max(1, len(self._working))

    def saw(self, node: str, line: Mapping[str, Any]) -> None:
        """A line of Ollama's on one node."""
        status, digest, total = str(line.get("status", "")), line.get("digest"), line.get("total")
        if isinstance(digest, str) and isinstance(total, int) and total > 0:
            part = self._parts.setdefault(digest, _Layer(status, total))
            if isinstance(part, _Layer):
                part.completed[node] = min(total, max(part.completed.get(node, 0), _whole(line.get("completed"))))
        elif status and status != SUCCESS:
            part = self._parts.setdefault(status, _Line())
            if isinstance(part, _Line):
                part.said_by.add(node)

    def left(self, node: str) -> None:
        """It is done or has failed there: nobody waits for its lines."""
        self._working.discard(node)

    def news(self) -> list[dict[str, Any]]:
        """Lines that were not told yet."""
        lines: list[dict[str, Any]] = []
        for number, (name, part) in enumerate(self._parts.items()):
            if isinstance(part, _Line):
                if not part.is_told and (number == 0 or part.said_by >= self._working):
                    part.is_told = True
                    lines.append({"status": name})
                continue
            completed = sum(part.completed.values()) // self._count
            if completed != part.told:
                part.told = completed
                line = {"status": part.status, "digest": name, "total": part.total}
                lines.append(line | ({"completed": completed} if completed else {}))
        return lines


@dataclass(slots=True)
class _Line:
    """Something that is said once, and who has said it."""

    said_by: set[str] = field(default_factory=set)
    is_told: bool = False


@dataclass(slots=True)
class _Layer:
    """One file of a model, as far as each node has it."""

    status: str
    total: int
    completed: dict[str, int] = field(default_factory=dict)
    told: int = -1


def _whole(number: object) -> int:
    return number if isinstance(number, int) else 0
