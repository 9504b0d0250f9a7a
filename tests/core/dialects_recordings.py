"""What a real Ollama put on the wire, for the tests of `core.dialects`; recorded beside the repository, not in it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from orchestrator.core.model import Endpoint

FOLDER = Path(__file__).parents[2].parent / "shared" / "ollama-wire"
# Ollama counts no tokens: its 404 is not of the API.
_PATHS = {each.value: each for each in Endpoint if each is not Endpoint.ANTHROPIC_COUNT}
# What differs from one answer to the next, and nothing else.
_PASSING = (
    (re.compile(rb'"created_at":"[^"]*"'), b'"created_at":"T"'),
    (re.compile(rb'"id":"(chatcmpl|cmpl)-\d+"'), rb'"id":"\1-0"'),
    (re.compile(rb'"created":\d+'), b'"created":0'),
    (re.compile(rb'"(created|completed)_at":\d+'), rb'"\1_at":0'),
    (re.compile(rb'"(id|item_id)":"(resp|msg|rs|fc|fc_resp)_[0-9a-f]+'), rb'"\1":"\2_0'),
    (re.compile(rb'"request_id":"req_[0-9a-f]+"'), b'"request_id":"req_0"'),
)


@dataclass(frozen=True)
class Recorded:
    """One exchange with an inference path. `chunks` is None for a body in one piece; `is_cut`: some were not kept."""

    name: str
    endpoint: Endpoint
    request: bytes
    status: int
    content_type: str
    body: bytes
    chunks: tuple[bytes, ...] | None
    is_cut: bool
    end: str

    @property
    def is_stream(self) -> bool:
        return self.content_type in ("application/x-ndjson", "text/event-stream")


def recordings(version: str = "") -> list[Recorded]:
    """All exchanges with inference paths: `version` "" is 0.33.0-rc2, "v0.24.0" the other."""
    found = []
    for file in sorted((FOLDER / version).glob("*.json")):
        case = json.loads(file.read_text())
        for number, exchange in enumerate(case.get("exchanges", [case])):
            request, response = exchange.get("request"), exchange.get("response")
            is_ours = request and request["method"] == "POST" and request["path"] in _PATHS
            if is_ours and response and response["status"]:
                found.append(_recorded(f"{file.stem}[{number}]", request, response))
    return found


def recorded(name: str, version: str = "") -> Recorded:
    """The first exchange of one case, or a skip where the recordings are not there."""
    skip_without_recordings()
    return next(each for each in recordings(version) if each.name.startswith(f"{name}["))


def skip_without_recordings() -> None:
    if not FOLDER.is_dir():
        pytest.skip("recordings of a real Ollama: ../shared is not present")


def without_passing(data: bytes) -> bytes:
    """`data` with times and ids made equal."""
    for pattern, instead in _PASSING:
        data = pattern.sub(instead, data)
    return data


def _recorded(name: str, request: dict, response: dict) -> Recorded:
    headers = {key.lower(): value for key, value in response["headers"]}
    kept = response.get("chunks")
    chunks = None if kept is None else tuple(each["data"].encode() for each in kept if "data" in each)
    return Recorded(
        name,
        _PATHS[request["path"]],
        (request["body"] or "").encode(),
        response["status"],
        headers.get("content-type", ""),
        (response.get("body") or "").encode() if chunks is None else b"".join(chunks),
        chunks,
        any("omitted" in each for each in kept or ()),
        response["end"],
    )


def answers(endpoint: Endpoint, kind: str) -> list[Recorded]:
    skip_without_recordings()
    found = [each for each in recordings() if each.endpoint is endpoint and each.status == 200]
    return [each for each in found if each.is_stream == (kind == "stream") and not each.name.startswith("kill")]


def events(data: bytes) -> list[dict]:
    return [orjson.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: ")]


def llama_events(*deltas: dict, finish: str = "stop") -> bytes:
    """A stream as llama.cpp writes it."""
    head = {"created": 1795237134, "id": "chatcmpl-x"}
    frames = [{"choices": [{"finish_reason": None, "index": 0, "delta": delta}]} | head for delta in deltas]
    frames.append({"choices": [{"finish_reason": finish, "index": 0, "delta": {}}]} | head)
    frames.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}} | head)
    return b"".join(b"data: " + orjson.dumps(frame) + b"\n\n" for frame in frames) + b"data: [DONE]\n\n"
