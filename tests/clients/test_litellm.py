"""LiteLLM's library, which wants an older openai than the newest: it runs in an environment of its own."""

from __future__ import annotations

import json

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

PROVIDERS = ("ollama_chat", "openai", "anthropic")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_question_is_answered_whole_and_in_parts(litellm: Player, cluster: Up, provider: str) -> None:
    asked = {"endpoint": cluster.endpoint, "model": MODEL, "question": QUESTION, "max_tokens": SHORT}
    whole = litellm.play("whole", provider=provider, **asked)
    assert whole["text"].startswith(MARKER)
    assert whole["tokens"] == SHORT
    streamed = litellm.play("stream", provider=provider, **asked)
    assert "".join(streamed["texts"]) == whole["text"]
    assert len(streamed["texts"]) > 1
    assert streamed["finishes"][-1] == "length"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_tool_is_called_and_its_result_is_answered(
    litellm: Player, tool_caller: str, provider: str, stream: bool
) -> None:
    asked = {"endpoint": tool_caller, "model": MODEL, "question": WEATHER_QUESTION, "tool": WEATHER_TOOL}
    told = litellm.play("tools", provider=provider, result=WEATHER, stream=stream, **asked)
    assert (told["name"], json.loads(told["arguments"])) == ("get_weather", {"city": CITY})
    assert told["said"] == SAID


@pytest.mark.parametrize("provider", ["ollama_chat", "openai"])
def test_an_answer_has_the_shape_of_its_schema(litellm: Player, cluster: Up, provider: str) -> None:
    asked = {"endpoint": cluster.endpoint, "model": MODEL, "question": QUESTION, "schema": BOOK_SCHEMA}
    book = json.loads(litellm.play("schema", provider=provider, **asked))
    assert book["title"].startswith(MARKER)
    assert isinstance(book["pages"], int)


@pytest.mark.parametrize("provider", ["ollama", "openai"])
def test_texts_are_embedded(litellm: Player, cluster: Up, provider: str) -> None:
    asked = {"endpoint": cluster.endpoint, "model": EMBEDDER, "texts": ["sea", "mountain", "sea"]}
    first, other, again = litellm.play("embed", provider=provider, **asked)
    assert len(first) == DIMENSIONS
    assert first == again != other


def test_an_unknown_model_is_litellms_own_error(litellm: Player, cluster: Up) -> None:
    asked = {"endpoint": cluster.endpoint, "model": UNKNOWN, "question": QUESTION}
    told = {provider: litellm.play("error", provider=provider, **asked) for provider in PROVIDERS}
    for each in told.values():
        assert (each["status"], UNKNOWN in each["text"]) == (404, True)
    assert REQUEST_ID.fullmatch(told["openai"]["request_id"])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_closing_a_stream_midway_frees_its_slot(litellm: Player, cluster: Up, provider: str) -> None:
    asked = {"endpoint": cluster.endpoint, "model": MODEL, "question": QUESTION, "max_tokens": LONG}
    with a_caller_leaves(cluster):
        litellm.play("leave", provider=provider, **asked)
