"""A call of a younger API as the call to Ollama's own chat that Ollama makes of it.

Anthropic's messages and OpenAI's responses are other words for a conversation; everything that decides by what is
asked (routing, checks, llama.cpp's requests) reads them in this one form. Other calls are left as they are.
"""

from __future__ import annotations

from orchestrator.core.dialects import anthropic, responses
from orchestrator.core.dialects.conversation import sampling, wanted_thinking
from orchestrator.core.model import Call, Dialect, Endpoint


def as_chat(call: Call) -> Call:
    """The call to `/api/chat` that Ollama would make of `call`; the same call where it makes none."""
    if call.endpoint is Endpoint.OPENAI_RESPONSES:
        body = responses.chat_body(call.body)
        # OpenAI's default; the others are the model's own.
        options = {"temperature": 1.0} | sampling(call)
    elif call.endpoint.dialect is Dialect.ANTHROPIC:
        body, options = anthropic.chat_body(call.body), sampling(call)
    else:
        return call
    think = wanted_thinking(call)
    body |= {"model": call.model, "stream": call.is_stream, "options": options}
    return Call(Endpoint.OLLAMA_CHAT, call.model, call.is_stream, body | ({} if think is None else {"think": think}))
