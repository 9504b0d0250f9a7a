"""What clients saw, as values: each call as it was sent, every piece of its answer and when it came, and how it ended.

Judged by `checker`; written down by `write`, so that a run can be judged again. Times are seconds of CLOCK_MONOTONIC,
which all processes of one machine share.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson


class Framing(StrEnum):
    """How a call ended as HTTP has it; what was in it is another matter."""

    WHOLE = "whole"  # its status and a body to its end
    CUT = "cut"  # the connection ended before that
    LEFT = "left"  # the client went away by itself
    UNREACHED = "unreached"  # no endpoint took a connection
    SILENT = "silent"  # nothing more came for as long as a client waits


@dataclass(frozen=True, slots=True)
class Sent:
    """One call as a client meant it. `leaves_after`: pieces of the answer after which it goes away; None: it stays."""

    id: str
    path: str
    body: Mapping[str, Any]
    is_cacheable: bool = False
    leaves_after: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def is_stream(self) -> bool:
        return bool(self.body.get("stream", self.path.startswith("/api/")))


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a body, without HTTP's chunks around them, as they were read."""

    at_s: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Called:
    """One call from its first byte out to its end. `status` 0: there was no answer."""

    sent: Sent
    began_s: float
    ended_s: float
    framing: Framing
    endpoint: str = ""
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: tuple[Piece, ...] = ()
    why: str = ""

    @property
    def body(self) -> bytes:
        return b"".join(each.data for each in self.pieces)

    @property
    def seconds(self) -> float:
        return self.ended_s - self.began_s

    def header(self, name: str) -> str:
        return self.headers.get(name, "")

    def was_under_way(self, from_s: float, to_s: float) -> bool:
        return self.began_s <= to_s and from_s <= self.ended_s


def write(path: Path, calls: Iterable[Called]) -> None:
    """One line of JSON a call."""
    path.write_bytes(b"".join(orjson.dumps(_plain(each)) + b"\n" for each in calls))


def read(path: Path) -> list[Called]:
    return [_called(orjson.loads(line)) for line in path.read_bytes().splitlines()]


def _plain(called: Called) -> dict[str, Any]:
    told = asdict(called)
    told["pieces"] = [[each.at_s, base64.b64encode(each.data).decode()] for each in called.pieces]
    return told | {"headers": dict(called.headers)}


def _called(told: dict[str, Any]) -> Called:
    pieces = tuple(Piece(at_s, base64.b64decode(data)) for at_s, data in told.pop("pieces"))
    return Called(**{**told, "sent": Sent(**told["sent"]), "framing": Framing(told["framing"]), "pieces": pieces})
