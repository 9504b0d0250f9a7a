"""LiteLLM as a library, by each of the providers that such an endpoint can be: ollama_chat, openai, anthropic."""

from __future__ import annotations

import asyncio
from typing import Any

import litellm
from playing import play

PATHS = {"ollama_chat": "", "openai": "/v1", "anthropic": ""}


def _asked(provider: str, endpoint: str, model: str, **more: Any) -> dict[str, Any]:
    asked = {"model": f"{provider}/{model}", "api_base": endpoint + PATHS.get(provider, ""), "api_key": "none"}
    return {**asked, "num_retries": 0, **more}


def whole(question: str, **asked: Any) -> Any:
    told = litellm.completion(messages=[{"role": "user", "content": question}], **_asked(**asked))
    choice = told.choices[0]
    return {"text": choice.message.content, "finish": choice.finish_reason, "tokens": told.usage.completion_tokens}


def stream(question: str, **asked: Any) -> Any:
    parts = list(litellm.completion(messages=[{"role": "user", "content": question}], stream=True, **_asked(**asked)))
    texts = [part.choices[0].delta.content or "" for part in parts]
    finishes = [part.choices[0].finish_reason for part in parts if part.choices[0].finish_reason]
    return {"texts": [text for text in texts if text], "finishes": finishes}


def tools(question: str, tool: dict[str, Any], result: str, stream: bool, **asked: Any) -> Any:
    """The tool call, and what is said once its result was sent back."""
    turns: list[Any] = [{"role": "user", "content": question}]

    def answer() -> Any:
        told = litellm.completion(messages=turns, tools=[tool], stream=stream, **_asked(**asked))
        return (litellm.stream_chunk_builder(list(told)) if stream else told).choices[0]

    called = answer()
    [call] = called.message.tool_calls
    turns += [called.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": result}]
    return {
        "name": call.function.name,
        "arguments": call.function.arguments,
        "finish": called.finish_reason,
        "said": answer().message.content,
    }


def schema(question: str, schema: dict[str, Any], **asked: Any) -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "book", "schema": schema, "strict": True}}
    messages = [{"role": "user", "content": question}]
    return litellm.completion(messages=messages, response_format=form, **_asked(**asked)).choices[0].message.content


def embed(texts: list[str], **asked: Any) -> Any:
    told = litellm.embedding(input=texts, **_asked(**asked))
    return [each["embedding"] for each in told.data]


def error(question: str, **asked: Any) -> Any:
    """LiteLLM's exception for an unknown model."""
    try:
        litellm.completion(messages=[{"role": "user", "content": question}], **_asked(**asked))
    except litellm.NotFoundError as why:
        head = getattr(why, "litellm_response_headers", None) or {}  # not every provider keeps it
        return {"status": why.status_code, "text": str(why), "request_id": head.get("x-request-id", "")}
    return None


def leave(question: str, **asked: Any) -> Any:
    """Closes a stream after its first parts."""

    async def read() -> int:
        messages = [{"role": "user", "content": question}]
        told: Any = await litellm.acompletion(messages=messages, stream=True, **_asked(**asked))
        await anext(told)
        await anext(told)
        await told.aclose()
        return 2

    return asyncio.run(read())


if __name__ == "__main__":
    play({each.__name__: each for each in (whole, stream, tools, schema, embed, error, leave)})
