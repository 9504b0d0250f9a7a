"""LlamaIndex's client for Ollama, in an environment of its own: it brings many packages."""

from __future__ import annotations

import pytest

from tests.clients.players import Player
from tests.clients.worlds import (
    CITY,
    LONG,
    MARKER,
    MODEL,
    QUESTION,
    SAID,
    SHORT,
    UNKNOWN,
    WEATHER,
    WEATHER_QUESTION,
    a_caller_leaves,
)
from tests.cluster.running import Up


def test_a_chat_is_answered_whole_and_in_parts(llama_index: Player, cluster: Up) -> None:
    asked = {"endpoint": cluster.endpoint, "model": MODEL, "question": QUESTION, "tokens": SHORT}
    whole = llama_index.play("whole", **asked)
    assert whole["text"].startswith(MARKER)
    assert whole["tokens"] == SHORT
    parts = llama_index.play("stream", **asked)
    assert len(parts) > SHORT
    assert "".join(parts) == whole["text"]


def test_a_prompt_is_completed_whole_and_in_parts(llama_index: Player, cluster: Up) -> None:
    asked = {"endpoint": cluster.endpoint, "model": MODEL, "question": QUESTION, "tokens": SHORT}
    told = llama_index.play("complete", **asked)
    assert told["whole"].startswith(MARKER)
    assert "".join(told["parts"]) == told["whole"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_is_answered(llama_index: Player, tool_caller: str, stream: bool) -> None:
    asked = {"endpoint": tool_caller, "model": MODEL, "question": WEATHER_QUESTION}
    told = llama_index.play("tools", result=WEATHER, stream=stream, **asked)
    assert told == {"name": "get_weather", "arguments": {"city": CITY}, "said": SAID}


def test_an_answer_is_parsed_into_the_callers_class(llama_index: Player, cluster: Up) -> None:
    told = llama_index.play("schema", endpoint=cluster.endpoint, model=MODEL, question=QUESTION)
    assert told["is_book"]
    assert told["title"].startswith(MARKER)


def test_an_unknown_model_is_the_error_of_ollamas_client(llama_index: Player, cluster: Up) -> None:
    told = llama_index.play("error", endpoint=cluster.endpoint, model=UNKNOWN, question=QUESTION)
    assert told["status"] == 404
    assert f"model '{UNKNOWN}' not found" in told["text"]


def test_closing_a_stream_midway_frees_its_slot(llama_index: Player, cluster: Up) -> None:
    with a_caller_leaves(cluster):
        llama_index.play("leave", endpoint=cluster.endpoint, model=MODEL, question=QUESTION, tokens=LONG)


def test_cancelling_a_task_midway_frees_its_slot(llama_index: Player, cluster: Up) -> None:
    asked = {"endpoint": cluster.endpoint, "model": MODEL, "question": QUESTION, "tokens": LONG}
    with a_caller_leaves(cluster):
        assert llama_index.play("cancel", **asked) is True
