"""OpenAI's own client for Python: chat completions, completions, responses and embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionChunk

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
    cancel_midway,
)
from tests.cluster.running import TIMEOUT_S, Up

ASKED: list[Any] = [{"role": "user", "content": QUESTION}]
WEATHER_ASKED: list[Any] = [{"role": "user", "content": WEATHER_QUESTION}]
TOOLS: Any = [WEATHER_TOOL]
FLAT_TOOL: Any = {"type": "function", "strict": False, **WEATHER_TOOL["function"]}  # as the responses API has it


class Book(pydantic.BaseModel):
    title: str
    pages: int


@pytest.fixture
def client(cluster: Up) -> Iterator[openai.OpenAI]:
    with _client(cluster.endpoint) as client:
        yield client


@pytest.fixture
def tool_client(tool_caller: str) -> Iterator[openai.OpenAI]:
    with _client(tool_caller) as client:
        yield client


def _client(endpoint: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{endpoint}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S)


# --- chat completions -------------------------------------------------------------------------------------------------


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    told = client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=SHORT)
    [choice] = told.choices
    assert (choice.message.content or "").startswith(MARKER)
    assert choice.finish_reason == "length"
    assert told.usage is not None
    assert told.usage.completion_tokens == SHORT
    assert told.usage.total_tokens == told.usage.prompt_tokens + SHORT


def test_a_streamed_chat_comes_in_parts_and_ends_with_what_it_cost(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=SHORT).choices[0].message.content
    stream = client.chat.completions.create(
        model=MODEL, messages=ASKED, max_tokens=SHORT, stream=True, stream_options={"include_usage": True}
    )
    *parts, last = stream
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole
    assert parts[-1].choices[0].finish_reason == "length"
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == SHORT


def test_a_tool_is_called_and_its_result_is_answered(tool_client: openai.OpenAI) -> None:
    told = tool_client.chat.completions.create(model=MODEL, messages=WEATHER_ASKED, tools=TOOLS)
    assert told.choices[0].finish_reason == "tool_calls"
    message = told.choices[0].message
    [call] = message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": CITY})
    turns = [*WEATHER_ASKED, message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": WEATHER}]
    said = tool_client.chat.completions.create(model=MODEL, messages=turns, tools=TOOLS)
    assert (said.choices[0].message.content, said.choices[0].finish_reason) == (SAID, "stop")


def test_a_streamed_tool_call_is_put_together_by_the_client(tool_client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": WEATHER_ASKED, "tools": TOOLS}
    with tool_client.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        choice = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.done" in kinds
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls or []
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": CITY})


def test_an_answer_is_parsed_into_the_callers_class(client: openai.OpenAI) -> None:
    book = client.chat.completions.parse(model=MODEL, messages=ASKED, response_format=Book).choices[0].message.parsed
    assert book is not None
    assert book.title.startswith(MARKER)
    with client.chat.completions.stream(model=MODEL, messages=ASKED, response_format=Book) as stream:
        streamed = stream.get_final_completion().choices[0].message.parsed
    assert streamed == book


def test_a_prompt_is_completed_whole_and_in_parts(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="The sea is", max_tokens=SHORT)
    assert whole.choices[0].text.startswith(MARKER)
    parts = client.completions.create(model=MODEL, prompt="The sea is", max_tokens=SHORT, stream=True)
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text


# --- responses --------------------------------------------------------------------------------------------------------


def test_a_response_is_answered_whole_and_in_events(client: openai.OpenAI) -> None:
    whole = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=SHORT)
    assert whole.output_text.startswith(MARKER)
    assert whole.usage is not None
    assert whole.usage.output_tokens == SHORT
    with client.responses.stream(model=MODEL, input=QUESTION, max_output_tokens=SHORT) as stream:
        events = [(event.type, getattr(event, "delta", "")) for event in stream]
        final = stream.get_final_response()
    assert "".join(delta for kind, delta in events if kind == "response.output_text.delta") == whole.output_text
    assert final.output_text == whole.output_text


def test_a_response_calls_a_tool_and_answers_its_result(tool_client: openai.OpenAI) -> None:
    told = tool_client.responses.create(model=MODEL, input=WEATHER_ASKED, tools=[FLAT_TOOL])
    [call] = [item for item in told.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": CITY})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": WEATHER}
    turns: Any = [*WEATHER_ASKED, call.to_dict(), result]
    said = tool_client.responses.create(model=MODEL, input=turns, tools=[FLAT_TOOL])
    assert said.output_text == SAID


def test_a_response_has_the_shape_of_its_schema(client: openai.OpenAI) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "book", "schema": BOOK_SCHEMA, "strict": True}}
    book = json.loads(client.responses.create(model=MODEL, input=QUESTION, text=form).output_text)
    assert book["title"].startswith(MARKER)
    parsed = client.responses.parse(model=MODEL, input=QUESTION, text_format=Book).output_parsed
    assert isinstance(parsed, Book)


# --- embeddings, models, errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["float", "base64", None])  # by itself the client asks for base64
def test_texts_are_embedded(client: openai.OpenAI, encoding: Any) -> None:
    more = {"encoding_format": encoding} if encoding else {}
    told = client.embeddings.create(model=EMBEDDER, input=["sea", "mountain", "sea"], **more)
    assert [each.index for each in told.data] == [0, 1, 2]
    first, other, again = (each.embedding for each in told.data)
    assert first == again != other
    if encoding != "base64":  # who asks for it gets it as it came
        assert len(first) == DIMENSIONS
        assert all(isinstance(number, float) for number in first)


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    assert {MODEL, EMBEDDER} <= {each.id for each in client.models.list()}
    assert client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_the_clients_own_error_with_the_request_id(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError, match=f"model '{UNKNOWN}' not found") as told:
        client.chat.completions.create(model=UNKNOWN, messages=ASKED, stream=stream)
    assert told.value.status_code == 404
    assert REQUEST_ID.fullmatch(told.value.request_id or "")
    assert (told.value.type, told.value.code) == ("not_found_error", None)


def test_the_other_paths_know_an_unknown_model_too(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=UNKNOWN):
        client.responses.create(model=UNKNOWN, input=QUESTION)
    with pytest.raises(openai.NotFoundError, match=UNKNOWN):
        client.embeddings.create(model=UNKNOWN, input="sea")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(UNKNOWN)


def test_an_answers_request_id_is_the_one_in_its_head(client: openai.OpenAI) -> None:
    told = client.chat.completions.create(
        model=MODEL, messages=ASKED, max_tokens=1, extra_headers={"X-Request-Id": "mine-7"}
    )
    assert told._request_id == "mine-7"


# --- callers that leave -----------------------------------------------------------------------------------------------


def test_closing_a_stream_midway_frees_its_slot(client: openai.OpenAI, cluster: Up) -> None:
    stream: openai.Stream[ChatCompletionChunk] = client.chat.completions.create(
        model=MODEL, messages=ASKED, max_tokens=LONG, stream=True
    )
    with a_caller_leaves(cluster):
        assert next(stream).choices
        stream.close()


def test_closing_a_streamed_response_midway_frees_its_slot(client: openai.OpenAI, cluster: Up) -> None:
    with a_caller_leaves(cluster):
        stream = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=LONG, stream=True)
        assert any(event.type == "response.output_text.delta" for event in stream)
        stream.close()


async def test_cancelling_a_task_midway_frees_its_slot(cluster: Up) -> None:
    async with openai.AsyncOpenAI(base_url=f"{cluster.endpoint}/v1", api_key="none", max_retries=0) as client:
        asked: dict[str, Any] = {"model": MODEL, "messages": ASKED, "max_tokens": LONG}
        with a_caller_leaves(cluster):
            await cancel_midway(await client.chat.completions.create(**asked, stream=True))


def test_a_time_limit_of_the_clients_own_frees_the_slot(client: openai.OpenAI, cluster: Up) -> None:
    with a_caller_leaves(cluster), pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=LONG, timeout=0.5)
