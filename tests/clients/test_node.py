"""Clients that npm has: ollama, openai, and Vercel's AI SDK."""

from __future__ import annotations

import pytest

from tests.clients.players import Player
from tests.clients.worlds import (
    BOOK_SCHEMA,
    CITY,
    DIMENSIONS,
    EMBEDDER,
    LONG,
    MARKER,
    MODEL,
    QUESTION,
    REQUEST_ID,
    SAID,
    SHORT,
    UNKNOWN,
    WEATHER,
    WEATHER_QUESTION,
    WEATHER_TOOL,
    a_caller_leaves,
)
from tests.cluster.running import Up

ERRORS = {"ollama": "ResponseError", "openai": "NotFoundError", "ai_sdk": "APICallError"}
every_client = pytest.mark.parametrize("client", ERRORS)


@every_client
def test_a_question_is_answered_whole_and_in_parts(node: Player, cluster: Up, client: str) -> None:
    asked = {"endpoint": cluster.endpoint, "model": MODEL, "question": QUESTION, "tokens": SHORT}
    whole = node.play("whole", client=client, **asked)
    assert whole["text"].startswith(MARKER)
    assert whole["tokens"] == SHORT
    parts = node.play("stream", client=client, **asked)
    assert len(parts) >= SHORT
    assert "".join(parts) == whole["text"]


@pytest.mark.parametrize("stream", [False, True])
@every_client
def test_a_tool_is_called_and_its_result_is_answered(node: Player, tool_caller: str, client: str, stream: bool) -> None:
    asked = {"endpoint": tool_caller, "model": MODEL, "question": WEATHER_QUESTION, "tool": WEATHER_TOOL}
    told = node.play("tools", client=client, result=WEATHER, stream=stream, **asked)
    assert told == {"name": "get_weather", "arguments": {"city": CITY}, "said": SAID}


@every_client
def test_an_answer_has_the_shape_of_its_schema(node: Player, cluster: Up, client: str) -> None:
    asked = {"endpoint": cluster.endpoint, "model": MODEL, "question": QUESTION, "schema": BOOK_SCHEMA}
    book = node.play("schema", client=client, **asked)
    assert set(book) == {"title", "pages"}
    assert book["title"].startswith(MARKER)


@every_client
def test_texts_are_embedded(node: Player, cluster: Up, client: str) -> None:
    asked = {"endpoint": cluster.endpoint, "model": EMBEDDER, "texts": ["sea", "mountain", "sea"]}
    first, other, again = node.play("embed", client=client, **asked)
    assert len(first) == DIMENSIONS
    assert first == again != other


@every_client
def test_an_unknown_model_is_the_clients_own_error(node: Player, cluster: Up, client: str) -> None:
    told = node.play("error", client=client, endpoint=cluster.endpoint, model=UNKNOWN, question=QUESTION)
    assert (told["kind"], told["status"]) == (ERRORS[client], 404)
    assert f"model '{UNKNOWN}' not found" in told["text"]
    if client != "ollama":  # its error has no head
        assert REQUEST_ID.fullmatch(told["request_id"])


@every_client
def test_aborting_a_stream_midway_frees_its_slot(node: Player, cluster: Up, client: str) -> None:
    asked = {"endpoint": cluster.endpoint, "model": MODEL, "question": QUESTION, "tokens": LONG}
    with a_caller_leaves(cluster):
        assert node.play("leave", client=client, **asked)["read"] >= 2


def test_a_response_of_openais_younger_api_is_answered_whole_and_in_parts(node: Player, cluster: Up) -> None:
    asked = {"endpoint": cluster.endpoint, "model": MODEL, "question": QUESTION, "tokens": SHORT}
    told = node.play("responses", client="openai", **asked)
    assert told["text"].startswith(MARKER)
    assert "".join(told["texts"]) == told["text"]
