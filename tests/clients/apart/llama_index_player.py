"""LlamaIndex's client for Ollama."""

# No `from __future__ import annotations` here: LlamaIndex makes a tool's schema out of what a function's types are.

import asyncio
from typing import Any, Literal

import ollama
import pydantic
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.ollama import Ollama
from playing import play


class Book(pydantic.BaseModel):
    """A book about the question."""

    title: str
    pages: int


def _model(endpoint: str, model: str, tokens: int = 0, context: int = 4096) -> Ollama:
    more = {"num_predict": tokens} if tokens else {}
    return Ollama(model=model, base_url=endpoint, context_window=context, request_timeout=60.0, additional_kwargs=more)


def whole(question: str, **asked: Any) -> Any:
    told = _model(**asked).chat([ChatMessage(role="user", content=question)])
    return {"text": told.message.content, "tokens": told.raw["eval_count"]}


def complete(question: str, **asked: Any) -> Any:
    model = _model(**asked)
    return {"whole": model.complete(question).text, "parts": [each.delta for each in model.stream_complete(question)]}


def stream(question: str, **asked: Any) -> Any:
    return [each.delta for each in _model(**asked).stream_chat([ChatMessage(role="user", content=question)])]


def tools(question: str, result: str, stream: bool, **asked: Any) -> Any:
    """The tool call, and what is said once its result was sent back."""
    model = _model(**asked)

    def get_weather(city: Literal["İzmir", "Ankara"]) -> str:
        """The weather in a city, now."""
        return result

    tool = FunctionTool.from_defaults(get_weather)
    turns = [ChatMessage(role="user", content=question)]

    def answer() -> Any:
        if stream:
            *_, last = model.stream_chat_with_tools([tool], chat_history=turns)
            return last
        return model.chat_with_tools([tool], chat_history=turns)

    called = answer()
    [call] = model.get_tool_calls_from_response(called)
    turns += [
        called.message,
        ChatMessage(
            role="tool", content=str(tool(**call.tool_kwargs)), additional_kwargs={"tool_call_id": call.tool_id}
        ),
    ]
    return {"name": call.tool_name, "arguments": call.tool_kwargs, "said": answer().message.content}


def schema(question: str, **asked: Any) -> Any:
    book = _model(**asked).structured_predict(Book, PromptTemplate("{question}"), question=question)
    return {"is_book": isinstance(book, Book), "title": book.title}


def error(question: str, **asked: Any) -> Any:
    try:
        _model(**asked).complete(question)
    except ollama.ResponseError as why:
        return {"status": why.status_code, "text": str(why)}
    return None


def leave(question: str, **asked: Any) -> Any:
    """Closes a stream after its first parts."""
    told: Any = _model(**asked).stream_chat([ChatMessage(role="user", content=question)])
    next(told)
    next(told)
    told.close()
    return 2


def cancel(question: str, **asked: Any) -> Any:
    """Cancels a task that reads a stream."""

    async def read(has_begun: asyncio.Event) -> None:
        async for _ in await _model(**asked).astream_chat([ChatMessage(role="user", content=question)]):
            has_begun.set()

    async def run() -> bool:
        has_begun = asyncio.Event()
        reading = asyncio.create_task(read(has_begun))
        await has_begun.wait()
        reading.cancel()
        await asyncio.wait([reading])
        return reading.cancelled()

    return asyncio.run(run())


if __name__ == "__main__":
    play({each.__name__: each for each in (whole, complete, stream, tools, schema, error, leave, cancel)})
