"""Anthropic's own client for Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.clients.worlds import (
    BOOK_SCHEMA,
    CITY,
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
    cancel_midway,
)
from tests.cluster.running import TIMEOUT_S, Up

ASKED: list[Any] = [{"role": "user", "content": QUESTION}]
WEATHER_ASKED: list[Any] = [{"role": "user", "content": WEATHER_QUESTION}]
_FUNCTION: dict[str, Any] = WEATHER_TOOL["function"]
TOOL: Any = {
    "name": _FUNCTION["name"],
    "description": _FUNCTION["description"],
    "input_schema": _FUNCTION["parameters"],
}
SAVE_BOOK: Any = {"name": "save_book", "description": "Keeps a book.", "input_schema": BOOK_SCHEMA}


@pytest.fixture
def client(cluster: Up) -> Iterator[anthropic.Anthropic]:
    with _client(cluster.endpoint) as client:
        yield client


@pytest.fixture
def tool_client(tool_caller: str) -> Iterator[anthropic.Anthropic]:
    with _client(tool_caller) as client:
        yield client


def _client(endpoint: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=endpoint, api_key="none", max_retries=0, timeout=TIMEOUT_S)


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_message_is_answered(client: anthropic.Anthropic) -> None:
    told = client.messages.create(model=MODEL, max_tokens=SHORT, messages=ASKED, system="Be brief.")
    assert text_of(told).startswith(MARKER)
    assert (told.role, told.stop_reason) == ("assistant", "max_tokens")
    assert told.usage.output_tokens == SHORT
    assert told.usage.input_tokens > 0


def test_a_streamed_message_comes_in_parts_and_says_what_the_whole_one_says(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model=MODEL, max_tokens=SHORT, messages=ASKED)
    with client.messages.stream(model=MODEL, max_tokens=SHORT, messages=ASKED) as stream:
        parts = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(parts) == SHORT
    assert "".join(parts) == text_of(final) == text_of(whole)
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", SHORT)


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_is_answered(tool_client: anthropic.Anthropic, stream: bool) -> None:
    told = _asked(tool_client, WEATHER_ASKED, TOOL, stream)
    [call] = [block for block in told.content if block.type == "tool_use"]
    assert told.stop_reason == "tool_use"
    assert (call.name, call.input) == ("get_weather", {"city": CITY})
    turns = [
        *WEATHER_ASKED,
        {"role": "assistant", "content": [block.to_dict() for block in told.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": WEATHER}]},
    ]
    said = _asked(tool_client, turns, TOOL, stream)
    assert (text_of(said), said.stop_reason) == (SAID, "end_turn")


@pytest.mark.parametrize("stream", [False, True])
def test_a_structured_answer_comes_as_the_input_of_a_tool(tool_client: anthropic.Anthropic, stream: bool) -> None:
    told = _asked(tool_client, ASKED, SAVE_BOOK, stream)
    [call] = [block for block in told.content if block.type == "tool_use"]
    assert call.name == "save_book"
    assert isinstance(call.input, dict)
    assert set(call.input) == {"title", "pages"}
    assert isinstance(call.input["pages"], int)


def _asked(client: anthropic.Anthropic, turns: list[Any], tool: Any, stream: bool) -> anthropic.types.Message:
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 200, "messages": turns, "tools": [tool]}
    if not stream:
        message: anthropic.types.Message = client.messages.create(**asked)
        return message
    with client.messages.stream(**asked) as told:
        return told.get_final_message()


def test_tokens_are_counted_before_they_are_spent(client: anthropic.Anthropic) -> None:
    few = client.messages.count_tokens(model=MODEL, messages=ASKED).input_tokens
    more = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": QUESTION * 50}]).input_tokens
    assert 0 < few < more


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_the_clients_own_error(client: anthropic.Anthropic, stream: bool) -> None:
    with pytest.raises(anthropic.NotFoundError, match=UNKNOWN) as told:
        client.messages.create(model=UNKNOWN, max_tokens=SHORT, messages=ASKED, stream=stream)
    assert told.value.status_code == 404
    assert REQUEST_ID.fullmatch(told.value.response.headers["X-Request-Id"])
    assert isinstance(told.value.body, dict)
    assert told.value.body["request_id"] == told.value.response.headers["X-Request-Id"]
    assert told.value.type == "not_found_error"


def test_what_the_api_demands_is_demanded(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as told:
        client.messages.create(model=MODEL, max_tokens=0, messages=ASKED)
    assert told.value.type == "invalid_request_error"


def test_leaving_a_stream_midway_frees_its_slot(client: anthropic.Anthropic, cluster: Up) -> None:
    with a_caller_leaves(cluster), client.messages.stream(model=MODEL, max_tokens=LONG, messages=ASKED) as stream:
        assert next(stream.text_stream)


async def test_cancelling_a_task_midway_frees_its_slot(cluster: Up) -> None:
    async with anthropic.AsyncAnthropic(base_url=cluster.endpoint, api_key="none", max_retries=0) as client:
        asked: dict[str, Any] = {"model": MODEL, "messages": ASKED, "max_tokens": LONG}
        with a_caller_leaves(cluster):
            await cancel_midway(await client.messages.create(**asked, stream=True))
