"""The recordings of a real Ollama, one file each beside the repository, read.

A case is one exchange; a scenario is several, or what was observed of some, with a server in a certain state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.model import Endpoint

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "ollama-wire"
OLDER = RECORDINGS / "v0.24.0"  # the last release that ran models itself, without llama-server


@dataclass(frozen=True, slots=True)
class Case:
    """One recorded request and its answer. `chunks` of an answer with a length is its body alone.

    `omitted_at`: there were more chunks in this place, which the recording leaves out. `is_whole`: the answer ended as
    its framing says, and was not cut, by either side.
    """

    name: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    status: int
    answer_headers: tuple[tuple[str, str], ...]
    framing: str  # chunked, length, close or none
    chunks: tuple[bytes, ...]
    version: str = ""
    server_env: str = ""
    omitted_at: int | None = None
    is_whole: bool = True

    @property
    def is_older(self) -> bool:
        """Recorded of the older version."""
        return self.version == OLDER.name.removeprefix("v")

    @property
    def content_type(self) -> str:
        return dict(self.answer_headers).get("Content-Type", "")

    @property
    def is_http10(self) -> bool:
        return ("HTTP-Version", "1.0") in self.headers

    @property
    def endpoint(self) -> Endpoint | None:
        return next((each for each in Endpoint if each.value == self.path), None)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Several exchanges, of which the recording may keep only some, and what was observed: see `capture.py` there."""

    name: str
    exchanges: tuple[Case, ...]
    observed: Mapping[str, Any]
    version: str
    server_env: str

    @property
    def id(self) -> str:
        """Its name, with the version where that is the older one."""
        return f"{OLDER.name}/{self.name}" if self.is_older else self.name

    @property
    def is_older(self) -> bool:
        """Recorded of the older version."""
        return self.version == OLDER.name.removeprefix("v")


def load_cases(folder: Path = RECORDINGS) -> dict[str, Case]:
    """Every recording of a single exchange, by its file's name; empty where the recordings are not present."""
    raws = _raws(folder)
    return {
        name: _case(name, raw, raw["ollama_version"], raw.get("server_env", ""))
        for name, raw in raws.items()
        if "response" in raw
    }


def load_scenarios(folder: Path = RECORDINGS) -> dict[str, Scenario]:
    """Every recording that `load_cases` leaves out, by its file's name."""
    return {name: _scenario(name, raw) for name, raw in _raws(folder).items() if "response" not in raw}


def _raws(folder: Path) -> dict[str, Any]:
    return {file.stem: json.loads(file.read_bytes()) for file in sorted(folder.glob("*.json"))}


def _scenario(name: str, raw: Mapping[str, Any]) -> Scenario:
    version = raw["ollama_version"]
    # What settings the server had is no reason against its answers here: the scenario is played with the like.
    exchanges = tuple(_case(f"{name}-{n}", each, version, "") for n, each in enumerate(raw["exchanges"]))
    return Scenario(name, exchanges, raw["observed"], version, raw.get("server_env", ""))


def _case(name: str, raw: Mapping[str, Any], version: str, server_env: str) -> Case:
    request, response = raw["request"], raw["response"]
    told = response.get("chunks", ())
    chunks = [each["data"].encode() for each in told if "data" in each]
    body = (response.get("body") or "").encode()
    return Case(
        name=name,
        method=request["method"],
        path=request["path"],
        headers=tuple((key, value) for key, value in request["headers"]),
        body=(request["body"] or "").encode(),
        status=response["status"] or 0,
        answer_headers=tuple((key, value) for key, value in response["headers"]),
        framing=response["framing"],
        chunks=tuple(chunks or ([body] if body else [])),
        version=version,
        server_env=server_env,
        omitted_at=next((n for n, each in enumerate(told) if "omitted" in each), None),
        is_whole=response["end"] == "complete",
    )
