"""A simulator that knows the recorded answers: its models and its script, made from the recordings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.core.dialects.outcome import read_answer
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Call, Endpoint, Footprint, ModelShape
from orchestrator.nodes.simulator.config import ScriptedAnswer, SimulatedModel, SimulatorConfig
from orchestrator.nodes.simulator.script import question
from tests.wire_cases import Case, load_cases

REGISTRY_MODEL = "127.0.0.1:11590/library/tiny:latest"
_FILLER_PIECES = 2000  # where a recording breaks off, the answer could have gone on


def replay_config(
    port: int, cases: Mapping[str, Case] | None = None, *, speed: float = 1000.0, **changes: Any
) -> SimulatorConfig:
    """A simulator with the recordings' models, which answers their questions with their words."""
    cases = load_cases() if cases is None else cases
    shown = {json.loads(cases["show_ok"].body)["model"]: _json(cases["show_ok"])}
    tags = _json(cases["tags"])["models"]
    given: dict[str, Any] = {
        "instance": "replay",
        "host": "127.0.0.1",
        "port": port,
        "models": tuple(_model(tag, shown.get(tag["name"], {})) for tag in [*tags, _registry_tag(tags)]),
        "script": tuple(scripted_answers(cases.values())),
        "speed": speed,
    }
    return SimulatorConfig(**{**given, **changes})


def _json(case: Case) -> Any:
    return json.loads(b"".join(case.chunks))


def _registry_tag(tags: list[dict[str, Any]]) -> dict[str, Any]:
    """The model that the recorded pulls fetch from a registry of their own: it can be pulled, and is not there yet."""
    tiny = next(tag for tag in tags if tag["name"] == "tiny:latest")
    return {**tiny, "name": REGISTRY_MODEL, "is_pulled": False}


def _model(tag: Mapping[str, Any], shown: Mapping[str, Any]) -> SimulatedModel:
    details = tag["details"]
    is_embedding = "embedding" in tag["capabilities"]
    is_tiny = details["parameter_size"] == "6.37M"
    # The numbers are those of the recorded /api/ps; how they come about is told with the recordings.
    if is_tiny:
        shape = ModelShape("llama", 6_370_000, 2, 4, 2, 16, 64, 49_152, 32_768, 6_815_744, "Q8_0", is_embedding)
        sizes = Footprint(6_815_744, 1_048_576, 420_057_186 if is_embedding else 69_206_016, 107_216, 0)
    else:
        shape = ModelShape("llama", 134_515_008, 30, 9, 3, 64, 576, 49_152, 8192, 96_563_200, "Q4_1")
        sizes = Footprint(96_563_200, 94_371_840, 18_373_835, 196_608, 0)
    return SimulatedModel(
        name=tag["name"],
        shape=shape,
        footprint=sizes,
        context=4096,
        capabilities=tuple(tag["capabilities"]),
        digest=tag["digest"],
        family=details["family"],
        parameter_size=details["parameter_size"],
        file_bytes=tag["size"],
        modified_at=tag["modified_at"],
        show=shown,
        is_pulled=tag.get("is_pulled", True),
    )


def scripted_answers(cases: Iterable[Case]) -> list[ScriptedAnswer]:
    """The recorded answers by their question. A stream tells more than a body, so its pieces are preferred."""
    found: dict[str, ScriptedAnswer] = {}
    for case in sorted(cases, key=lambda each: each.framing not in ("chunked", "close")):
        call = _answered_call(case)
        if call is None:
            continue
        answer = _recorded_answer(case, call)
        if answer is not None:
            found[answer.question] = _joined(found.get(answer.question, answer), answer)
    return list(found.values())


def _recorded_answer(case: Case, call: Call) -> ScriptedAnswer | None:
    if call.endpoint.is_embedding:
        return _vectors(case, call)
    is_complete = case.is_whole and case.omitted_at is None
    return _answer(case, call) if is_complete else _answer_in_part(case, call)


def _answer_in_part(case: Case, call: Call) -> ScriptedAnswer:
    """What was recorded of the answer; where chunks are left out or it was cut, other words stand in."""
    frames = [_loads(line) for chunk in case.chunks for line in chunk.splitlines() if _is_json(line)]
    told = [piece for each in frames[: case.omitted_at] if (piece := _piece(call.endpoint, each)) is not None]
    last = frames[-1]
    written = last.get("eval_count") or _FILLER_PIECES
    filler = [{"text": f" {n}"} for n in range(written - len(told))]
    if case.is_whole and last.get("done") is False:  # the model said one token until Ollama had enough of it
        filler = [*filler[:10], *[{"text": last["response"]}] * 100]
    return ScriptedAnswer(
        question=question(call),
        pieces=(*told, *filler),
        finish=last.get("done_reason", "length"),
        prompt_tokens=last.get("prompt_eval_count", 15),
        completion_tokens=written,
        context=tuple(last.get("context", ())),
    )


def _joined(first: ScriptedAnswer, other: ScriptedAnswer) -> ScriptedAnswer:
    """`first`, with what only `other` tells: OpenAI's streams have no counts, and only generate has a context."""
    return replace(
        first,
        prompt_tokens=first.prompt_tokens or other.prompt_tokens,
        completion_tokens=max(first.completion_tokens, other.completion_tokens),
        context=first.context or other.context,
    )


def _answered_call(case: Case) -> Call | None:
    if case.endpoint is None or case.status != 200 or case.server_env:
        return None
    try:
        return parse_call(case.endpoint, case.body)
    except CallerError:
        return None


def _answer(case: Case, call: Call) -> ScriptedAnswer | None:
    told = read_answer(call.endpoint, call.is_stream, b"".join(case.chunks))
    if told is None:
        return None
    lines = [_loads(line) for line in b"".join(case.chunks).splitlines() if _is_json(line)]
    frames = [_piece(call.endpoint, each) for each in lines]
    shown = [piece for piece in frames if piece is not None]
    pieces = shown if call.is_stream else _pieces_of_body(told, lines[0])
    written = sum(piece.get("tokens", 1) for piece in pieces)
    if told.tool_calls:
        pieces[0]["tokens"] = max(1, told.completion_tokens - 1)
    elif told.completion_tokens and written > told.completion_tokens:
        pieces = [{**pieces[0], "text": told.text, "thinking": told.thinking, "tokens": told.completion_tokens}]
    return ScriptedAnswer(
        question=question(call),
        pieces=tuple(pieces),
        finish=str(told.finish),
        prompt_tokens=told.prompt_tokens,
        completion_tokens=told.completion_tokens or written,
        context=tuple(lines[-1].get("context", ())),
    )


def _is_json(line: bytes) -> bool:
    """A line of a stream or body that is a frame; the others name an event, or end the stream."""
    return line.removeprefix(b"data: ").startswith(b"{")


def _loads(line: bytes) -> Any:
    return json.loads(line.removeprefix(b"data: "))


def _piece(endpoint: Endpoint, frame: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a stream's frame adds; None for one that only ends it."""
    if endpoint in (Endpoint.ANTHROPIC_MESSAGES, Endpoint.OPENAI_RESPONSES):
        return _piece_of_event(frame)
    if frame.get("done") or "error" in frame or ("choices" in frame and not frame["choices"]):
        return None
    choice = frame["choices"][0] if "choices" in frame else frame
    if choice.get("finish_reason"):
        return None
    part = choice.get("delta") or choice.get("message") or choice
    logprobs = choice.get("logprobs") or frame.get("logprobs") or []
    return {
        "text": part.get("content") or part.get("response") or part.get("text") or "",
        "thinking": part.get("thinking") or part.get("reasoning") or "",
        "tool_calls": [_tool(each) for each in part.get("tool_calls", ())],
        "logprobs": logprobs["content"] if isinstance(logprobs, dict) else logprobs,
    }


def _piece_of_event(event: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an event of the younger APIs adds, which tell everything once more where a block or item ends."""
    kind, delta = event.get("type"), event.get("delta")
    if kind == "content_block_delta":
        return {"text": delta.get("text", ""), "thinking": delta.get("thinking", "")}
    if kind == "response.output_text.delta":
        return {"text": delta}
    if kind == "response.reasoning_summary_text.delta":
        return {"thinking": delta}
    item = event.get("item", {})
    if kind == "response.output_item.done" and item["type"] == "function_call":
        return {"tool_calls": [_tool({"id": item["call_id"], "function": item})]}
    return None


def _tool(given: Mapping[str, Any]) -> dict[str, Any]:
    function = given["function"]
    arguments = function["arguments"]
    return {
        "id": given["id"],
        "name": function["name"],
        "arguments": json.loads(arguments) if isinstance(arguments, str) else arguments,
    }


def _pieces_of_body(told: Any, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A body does not say which tokens it was made of, but for its logprobs; words come near."""
    choice = (body.get("choices") or [body])[0]
    logprobs = choice.get("logprobs") or body.get("logprobs") or []
    entries = logprobs["content"] if isinstance(logprobs, dict) else logprobs
    if entries:
        return [{"text": each["token"], "logprobs": [each]} for each in entries]
    calls = [{"id": each.id, "name": each.name, "arguments": dict(each.arguments)} for each in told.tool_calls]
    if calls:
        return [{"tool_calls": calls}]
    named = (("thinking", told.thinking), ("text", told.text))
    return [{name: word} for name, text in named for word in re.findall(r"\s*\S+|\s+", text)]


def _vectors(case: Case, call: Call) -> ScriptedAnswer | None:
    body = json.loads(b"".join(case.chunks))
    rows = body.get("embeddings") or [each["embedding"] for each in body.get("data", ())]
    rows = rows or ([body["embedding"]] if body.get("embedding") else [])
    if not rows or any(isinstance(row, str) for row in rows):
        return None
    count = body.get("prompt_eval_count") or (body.get("usage") or {}).get("prompt_tokens", 0)
    vectors = tuple(map(tuple, rows))
    return ScriptedAnswer(question=question(call), prompt_tokens=count, vectors=vectors)
