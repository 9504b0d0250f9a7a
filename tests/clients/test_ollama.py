"""Ollama's own client for Python."""

from __future__ import annotations

import json
from collections.abc import Iterator

import ollama
import pytest

from tests.clients.worlds import (
    BOOK_SCHEMA,
    CITY,
    DIMENSIONS,
    EMBEDDER,
    LONG,
    MARKER,
    MODEL,
    QUESTION,
    SAID,
    SHORT,
    UNKNOWN,
    WEATHER,
    WEATHER_QUESTION,
    WEATHER_TOOL,
    a_caller_leaves,
    cancel_midway,
)
from tests.cluster.running import TIMEOUT_S, Up

ASKED = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def client(cluster: Up) -> ollama.Client:
    return ollama.Client(host=cluster.endpoint, timeout=TIMEOUT_S)


@pytest.fixture
def tool_client(tool_caller: str) -> ollama.Client:
    return ollama.Client(host=tool_caller, timeout=TIMEOUT_S)


def test_a_chat_is_answered(client: ollama.Client) -> None:
    told = client.chat(MODEL, ASKED, options={"num_predict": SHORT})
    assert (told.message.content or "").startswith(MARKER)
    assert (told.done, told.done_reason, told.eval_count) == (True, "length", SHORT)


def test_a_streamed_chat_comes_in_parts_and_says_what_the_whole_one_says(client: ollama.Client) -> None:
    *parts, last = client.chat(MODEL, ASKED, options={"num_predict": SHORT}, stream=True)
    assert [part.done for part in parts] == [False] * SHORT
    assert (last.done, last.done_reason, last.eval_count) == (True, "length", SHORT)
    whole = client.chat(MODEL, ASKED, options={"num_predict": SHORT}).message.content
    assert "".join(part.message.content or "" for part in parts) == whole


def test_a_prompt_is_completed_whole_and_in_parts(client: ollama.Client) -> None:
    whole = client.generate(MODEL, "The sea is", options={"num_predict": SHORT})
    *parts, last = client.generate(MODEL, "The sea is", options={"num_predict": SHORT}, stream=True)
    assert "".join(part.response or "" for part in parts) == whole.response
    assert (whole.response or "").startswith(MARKER)
    assert last.context == whole.context
    assert last.context


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_is_answered(tool_client: ollama.Client, stream: bool) -> None:
    messages: list[ollama.Message] = [ollama.Message(role="user", content=WEATHER_QUESTION)]
    told = _asked(tool_client, messages, stream)
    [call] = told.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": CITY})
    result = ollama.Message(role="tool", content=WEATHER, tool_name=call.function.name)
    assert _asked(tool_client, [*messages, told, result], stream).content == SAID


def _asked(client: ollama.Client, messages: list[ollama.Message], stream: bool) -> ollama.Message:
    """The model's answer, put together where it comes in parts."""
    if not stream:
        return client.chat(MODEL, messages, tools=[WEATHER_TOOL]).message
    parts = [part.message for part in client.chat(MODEL, messages, tools=[WEATHER_TOOL], stream=True)]
    calls = [call for part in parts for call in part.tool_calls or ()]
    return ollama.Message(
        role="assistant", content="".join(part.content or "" for part in parts), tool_calls=calls or None
    )


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_has_the_shape_of_its_schema(client: ollama.Client, stream: bool) -> None:
    options = {"temperature": 0}
    if stream:
        parts = client.chat(MODEL, ASKED, format=BOOK_SCHEMA, options=options, stream=True)
        text = "".join(part.message.content or "" for part in parts)
    else:
        text = client.chat(MODEL, ASKED, format=BOOK_SCHEMA, options=options).message.content or ""
    book = json.loads(text)
    assert book["title"].startswith(MARKER)
    assert isinstance(book["pages"], int)


def test_texts_are_embedded(client: ollama.Client) -> None:
    told = client.embed(EMBEDDER, ["sea", "mountain", "sea"])
    first, other, again = told.embeddings
    assert len(first) == DIMENSIONS
    assert first == again != other
    assert len(client.embeddings(EMBEDDER, "sea").embedding) == DIMENSIONS


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_the_clients_own_error(client: ollama.Client, stream: bool) -> None:
    with pytest.raises(ollama.ResponseError, match=f"model '{UNKNOWN}' not found") as told:
        next(iter(client.chat(UNKNOWN, ASKED, stream=True))) if stream else client.chat(UNKNOWN, ASKED)
    assert told.value.status_code == 404


def test_a_wrong_option_is_told_in_ollamas_words(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="num_ctx") as told:
        client.chat(MODEL, ASKED, options={"num_ctx": "many"})
    assert told.value.status_code in (400, 500)


def test_closing_a_stream_midway_frees_its_slot(client: ollama.Client, cluster: Up) -> None:
    stream: Iterator[ollama.ChatResponse] = client.chat(MODEL, ASKED, options={"num_predict": LONG}, stream=True)
    with a_caller_leaves(cluster):
        assert not next(stream).done
        assert not next(stream).done
        stream.close()  # type: ignore[attr-defined]


async def test_cancelling_a_task_midway_frees_its_slot(cluster: Up) -> None:
    client = ollama.AsyncClient(host=cluster.endpoint, timeout=TIMEOUT_S)
    with a_caller_leaves(cluster):
        await cancel_midway(await client.chat(MODEL, ASKED, options={"num_predict": LONG}, stream=True))


def test_the_cluster_looks_like_one_ollama(client: ollama.Client) -> None:
    assert {MODEL, EMBEDDER} <= {each.model for each in client.list().models}
    assert {each.model for each in client.ps().models} == {MODEL, EMBEDDER}
    assert "tools" in (client.show(MODEL).capabilities or ())
