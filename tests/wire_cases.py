"""The recorded exchanges with a real Ollama, one file each beside the repository, read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.model import Endpoint

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "ollama-wire"


@dataclass(frozen=True, slots=True)
class Case:
    """One recorded request and its answer. `chunks` of an answer with a length is its body alone."""

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

    @property
    def content_type(self) -> str:
        return dict(self.answer_headers).get("Content-Type", "")

    @property
    def is_http10(self) -> bool:
        return ("HTTP-Version", "1.0") in self.headers

    @property
    def endpoint(self) -> Endpoint | None:
        return next((each for each in Endpoint if each.value == self.path), None)


def load_cases(folder: Path = RECORDINGS) -> dict[str, Case]:
    """Every recording of a single exchange, by its file's name; empty where the recordings are not present."""
    cases = {}
    for file in sorted(folder.glob("*.json")):
        raw = json.loads(file.read_bytes())
        if "response" in raw:
            cases[file.stem] = _case(file.stem, raw)
    return cases


def _case(name: str, raw: Mapping[str, Any]) -> Case:
    request, response = raw["request"], raw["response"]
    chunks = [each["data"].encode() for each in response.get("chunks", ())]
    body = (response.get("body") or "").encode()
    return Case(
        name=name,
        method=request["method"],
        path=request["path"],
        headers=tuple((key, value) for key, value in request["headers"]),
        body=(request["body"] or "").encode(),
        status=response["status"],
        answer_headers=tuple((key, value) for key, value in response["headers"]),
        framing=response["framing"],
        chunks=tuple(chunks or ([body] if body else [])),
        version=raw["ollama_version"],
        server_env=raw.get("server_env", ""),
    )
