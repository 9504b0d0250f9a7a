"""LangChain's two packages for such servers: langchain-ollama and langchain-openai."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ollama
import openai
import pydantic
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.clients.worlds import (
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

PACKAGES = ("langchain-ollama", "langchain-openai")


class Book(pydantic.BaseModel):
    """A book about the question."""

    title: str
    pages: int


@pytest.fixture(autouse=True)
def _no_traces_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """LangChain can send what it does to a service; whatever this machine has set, these tests do not."""
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    monkeypatch.setenv("LANGCHAIN_TRACING_V2", "false")


def chat_model(package: str, endpoint: str, tokens: int | None = None, model: str = MODEL) -> BaseChatModel:
    if package == "langchain-ollama":
        return ChatOllama(model=model, base_url=endpoint, num_predict=tokens, client_kwargs={"timeout": TIMEOUT_S})
    return ChatOpenAI(
        model=model,
        base_url=f"{endpoint}/v1",
        api_key=pydantic.SecretStr("none"),
        max_completion_tokens=tokens,
        max_retries=0,
        timeout=TIMEOUT_S,
    )


def embeddings(package: str, endpoint: str) -> Embeddings:
    if package == "langchain-ollama":
        return OllamaEmbeddings(model=EMBEDDER, base_url=endpoint)
    # Left to itself it cuts texts into OpenAI's tokens and sends their numbers, which no other model has.
    return OpenAIEmbeddings(
        model=EMBEDDER,
        base_url=f"{endpoint}/v1",
        api_key=pydantic.SecretStr("none"),
        check_embedding_ctx_length=False,
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_a_question_is_answered(cluster: Up, package: str) -> None:
    told = chat_model(package, cluster.endpoint, SHORT).invoke(QUESTION)
    assert isinstance(told, AIMessage)
    assert told.text.startswith(MARKER)
    assert told.usage_metadata is not None
    assert told.usage_metadata["output_tokens"] == SHORT


@pytest.mark.parametrize("package", PACKAGES)
def test_a_streamed_answer_comes_in_parts_and_says_what_the_whole_one_says(cluster: Up, package: str) -> None:
    model = chat_model(package, cluster.endpoint, SHORT)
    parts = list(model.stream(QUESTION))
    assert len(parts) > SHORT
    assert "".join(part.text for part in parts) == model.invoke(QUESTION).text


def test_the_plain_completion_of_langchain_ollama_is_answered(cluster: Up) -> None:
    model = OllamaLLM(model=MODEL, base_url=cluster.endpoint, num_predict=SHORT)
    assert "".join(model.stream(QUESTION)) == model.invoke(QUESTION)
    assert model.invoke(QUESTION).startswith(MARKER)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("package", PACKAGES)
def test_a_tool_is_called_and_its_result_is_answered(tool_caller: str, package: str, is_streamed: bool) -> None:
    model = chat_model(package, tool_caller).bind_tools([WEATHER_TOOL])
    turns: list[BaseMessage] = [HumanMessage(WEATHER_QUESTION)]

    def answer() -> AIMessage:
        if not is_streamed:
            told = model.invoke(turns)
            assert isinstance(told, AIMessage)
            return told
        whole: Any = AIMessageChunk(content="")
        for part in model.stream(turns):
            whole += part
        assert isinstance(whole, AIMessage)
        return whole

    told = answer()
    [call] = told.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": CITY})
    turns += [told, ToolMessage(WEATHER, tool_call_id=call["id"])]
    assert answer().text == SAID


@pytest.mark.parametrize("package", PACKAGES)
def test_an_answer_is_parsed_into_the_callers_class(cluster: Up, package: str) -> None:
    model = chat_model(package, cluster.endpoint).with_structured_output(Book, method="json_schema")
    book = model.invoke(QUESTION)
    assert isinstance(book, Book)
    assert book.title.startswith(MARKER)


@pytest.mark.parametrize("package", PACKAGES)
def test_texts_are_embedded(cluster: Up, package: str) -> None:
    model = embeddings(package, cluster.endpoint)
    first, other = model.embed_documents(["sea", "mountain"])
    assert len(first) == len(other) == DIMENSIONS
    assert model.embed_query("sea") == first != other


def test_an_unknown_model_is_the_error_of_ollamas_client(cluster: Up) -> None:
    with pytest.raises(ollama.ResponseError, match=UNKNOWN) as told:
        chat_model("langchain-ollama", cluster.endpoint, model=UNKNOWN).invoke(QUESTION)
    assert told.value.status_code == 404


def test_an_unknown_model_is_the_error_of_openais_client_with_the_request_id(cluster: Up) -> None:
    with pytest.raises(openai.NotFoundError, match=UNKNOWN) as told:
        chat_model("langchain-openai", cluster.endpoint, model=UNKNOWN).invoke(QUESTION)
    assert REQUEST_ID.fullmatch(told.value.request_id or "")


@pytest.mark.parametrize("package", PACKAGES)
def test_closing_a_stream_midway_frees_its_slot(cluster: Up, package: str) -> None:
    stream: Iterator[Any] = chat_model(package, cluster.endpoint, LONG).stream(QUESTION)
    with a_caller_leaves(cluster):
        assert next(stream) is not None
        assert next(stream) is not None
        stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("package", PACKAGES)
async def test_cancelling_a_task_midway_frees_its_slot(cluster: Up, package: str) -> None:
    with a_caller_leaves(cluster):
        await cancel_midway(chat_model(package, cluster.endpoint, LONG).astream(QUESTION))
