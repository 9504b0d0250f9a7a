"""What a provider is asked: OpenAI's own fields and no others, whatever the caller's dialect."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.dialects.provider_request import to_provider
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Endpoint
from orchestrator.core.providers import table
from orchestrator.core.target import Manners

# Of OpenAI's API reference, chat completions.
STANDARD = frozenset({
    *("model", "messages", "stream", "stream_options", "temperature", "top_p", "presence_penalty", "frequency_penalty"),
    *("stop", "seed", "max_tokens", "max_completion_tokens", "n", "logprobs", "top_logprobs", "logit_bias", "user"),
    *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "metadata", "store"),
})  # fmt: skip
PICTURE = "iVBORw0KGgo="
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather", "parameters": {"type": "object", "properties": {}}},
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def asked(endpoint: Endpoint, body: dict[str, Any], manners: Manners | None = None, model: str = "big") -> Any:
    """The body that the provider gets for a caller's."""
    call = parse_call(endpoint, orjson.dumps({"model": "auto", **body}))
    sent = orjson.loads(to_provider(call, model, manners or Manners()))
    assert sent.keys() <= STANDARD, sent.keys() - STANDARD
    return sent


def manners_of(name: str) -> Manners:
    return table().providers[name].manners


def chat(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello"}], **more}


def test_options_of_ollamas_go_under_openais_names_and_what_only_ollama_has_is_left_out():
    options = {
        "temperature": 0.5, "top_p": 0.9, "seed": 7, "num_predict": 99, "stop": ["x"],
        "top_k": 40, "min_p": 0.1, "repeat_penalty": 1.1, "num_ctx": 8192, "num_thread": 4,
    }  # fmt: skip
    sent = asked(Endpoint.OLLAMA_CHAT, chat(stream=False, options=options, keep_alive="5m"))
    assert sent == {
        "model": "big",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "max_tokens": 99,
        "stop": ["x"],
    }


def test_a_stream_is_asked_for_its_counts_whoever_asked():
    for endpoint in (Endpoint.OLLAMA_CHAT, Endpoint.OPENAI_CHAT):
        sent = asked(endpoint, chat(stream=True))
        assert sent["stream"] is True
        assert sent["stream_options"] == {"include_usage": True}


def test_nothing_is_said_of_how_to_draw_where_the_caller_says_nothing():
    assert asked(Endpoint.OLLAMA_CHAT, chat(stream=False)).keys() == {"model", "messages"}


def test_a_prompt_with_a_system_text_and_a_picture_becomes_a_conversation():
    body = {"prompt": "what is it?", "system": "be short", "images": [PICTURE], "stream": False}
    system, user = asked(Endpoint.OLLAMA_GENERATE, body)["messages"]
    assert system == {"role": "system", "content": "be short"}
    assert user["content"] == [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
    ]


def test_a_tool_its_call_and_its_result_are_told_as_openai_has_them():
    call = {"function": {"name": "weather", "arguments": {"city": "Ankara"}}}
    said = [
        {"role": "user", "content": "weather in Ankara?"},
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_name": "weather", "content": "sunny"},
    ]
    sent = asked(Endpoint.OLLAMA_CHAT, {"messages": said, "tools": [TOOL], "stream": False})
    told, result = sent["messages"][1:]
    assert sent["tools"] == [TOOL]
    assert told.keys() == {"role", "content", "tool_calls"}, "thoughts of before are not sent back"
    assert orjson.loads(told["tool_calls"][0]["function"]["arguments"]) == {"city": "Ankara"}
    assert result == {"role": "tool", "content": "sunny", "tool_call_id": told["tool_calls"][0]["id"]}


def test_a_schema_is_a_response_format():
    sent = asked(Endpoint.OLLAMA_CHAT, chat(format=SCHEMA, stream=False))
    assert sent["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    sent = asked(Endpoint.OPENAI_RESPONSES, {"input": "hi", "text": {"format": {"type": "json_schema", "name": "x",
                                                                                "schema": SCHEMA}}})  # fmt: skip
    assert sent["response_format"]["json_schema"]["schema"] == SCHEMA


def test_json_without_a_schema_is_asked_for_in_words_too_where_no_message_does():
    first, _ = asked(Endpoint.OLLAMA_CHAT, chat(format="json", stream=False))["messages"]
    assert first["role"] == "system"
    assert "JSON" in first["content"]
    said = [{"role": "user", "content": "cities, as json"}]
    assert asked(Endpoint.OLLAMA_CHAT, {"messages": said, "format": "json", "stream": False})["messages"] == said


def test_a_schema_is_told_in_words_to_who_knows_none():
    sent = asked(Endpoint.OLLAMA_CHAT, chat(format=SCHEMA, stream=False), manners_of("deepseek"))
    assert sent["response_format"] == {"type": "json_object"}
    assert '"required":["city"]' in sent["messages"][0]["content"]


def test_anthropics_messages_and_their_limit_are_a_chats():
    body = {"max_tokens": 50, "system": "short", "messages": [{"role": "user", "content": "hi"}], "top_k": 5}
    sent = asked(Endpoint.ANTHROPIC_MESSAGES, body)
    assert sent == {
        "model": "big",
        "max_tokens": 50,
        "messages": [{"role": "system", "content": "short"}, {"role": "user", "content": "hi"}],
    }


def test_a_caller_of_openais_is_passed_on_but_for_the_models_name_and_what_is_ours():
    body = chat(
        temperature=0.1, n=2, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False, user="u", keep_alive="1h", options={"num_ctx": 4}, top_k=3, min_p=0.1, think=True,
    )  # fmt: skip
    body["messages"].append({"role": "assistant", "content": "x", "reasoning": "thought"})
    sent = asked(Endpoint.OPENAI_CHAT, body)
    assert sent["messages"][1] == {"role": "assistant", "content": "x"}
    for name in ("temperature", "n", "tools", "tool_choice", "parallel_tool_calls", "user"):
        assert sent[name] == body[name], name


def test_a_caller_chooses_no_other_model_price_or_terms_of_the_operators_account():
    chosen = {
        "models": ["dear-70b"], "route": "fallback", "provider": {"data_collection": "allow"}, "preset": "x",
        "plugins": [{"id": "web"}], "service_tier": "priority", "web_search_options": {}, "transforms": [],
    }  # fmt: skip
    assert asked(Endpoint.OPENAI_CHAT, chat(**chosen)) == {"model": "big", **chat()}


@pytest.mark.parametrize(
    ("think", "provider", "model", "effort"),
    [
        ("high", "groq", "openai/gpt-oss-120b", "high"),
        (False, "groq", "openai/gpt-oss-120b", None),
        (False, "groq", "qwen/qwen3-32b", "none"),
        ("high", "groq", "qwen/qwen3-32b", None),
        ("high", "groq", "llama-3.3-70b-versatile", None),
        (True, "openai", "o3-mini", None),
        ("max", "openai", "o3-mini", "high"),
        (False, "openai", "gpt-5-mini", "minimal"),
        (False, "gemini", "gemini-2.5-pro", None),
        (False, "gemini", "gemini-2.5-flash", "none"),
        ("low", "mistral", "mistral-small-latest", None),
    ],
)
def test_thinking_is_effort_where_the_model_knows_such_a_word(think, provider, model, effort):
    sent = asked(Endpoint.OLLAMA_CHAT, chat(think=think, stream=False), manners_of(provider), model)
    assert sent.get("reasoning_effort") == effort


def test_an_unknown_provider_is_given_the_callers_word_for_effort():
    assert asked(Endpoint.OLLAMA_CHAT, chat(think="low", stream=False))["reasoning_effort"] == "low"
    assert asked(Endpoint.OPENAI_CHAT, chat(reasoning={"effort": "none"}))["reasoning_effort"] == "none"


def test_mistral_is_asked_in_mistrals_words():
    said = [
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weather", "arguments": {}}}]},
        {"role": "tool", "tool_name": "weather", "content": "sunny"},
    ]
    body = {"messages": said, "options": {"seed": 3, "num_predict": 9}, "logprobs": True}
    call = parse_call(Endpoint.OLLAMA_CHAT, orjson.dumps({"model": "auto", **body}))
    sent = orjson.loads(to_provider(call, "mistral-small", manners_of("mistral")))
    assert sent.keys() == {"model", "messages", "stream", "random_seed", "max_tokens"}
    first = sent["messages"][0]["tool_calls"][0]["id"]
    assert len(first) == 9
    assert first.isalnum()
    assert sent["messages"][1]["tool_call_id"] == first


def test_the_longest_answer_is_told_under_the_name_that_the_provider_has_for_it():
    body = chat(max_tokens=5, stream=False)
    assert asked(Endpoint.OPENAI_CHAT, body, manners_of("openai"))["max_completion_tokens"] == 5
    assert asked(Endpoint.OPENAI_CHAT, chat(max_completion_tokens=5), manners_of("mistral"))["max_tokens"] == 5


@pytest.mark.parametrize(
    ("endpoint", "body", "word"),
    [
        (Endpoint.OLLAMA_GENERATE, {"prompt": "x", "raw": True}, "raw"),
        (Endpoint.OLLAMA_GENERATE, {"prompt": "x", "suffix": "y"}, "insert"),
        (Endpoint.OLLAMA_GENERATE, {"prompt": "x", "context": [1, 2]}, "context"),
        (Endpoint.OLLAMA_EMBED, {"input": "x"}, "embed"),
        (Endpoint.ANTHROPIC_COUNT, {"messages": [{"role": "user", "content": "hi"}]}, "counts no tokens"),
    ],
)
def test_what_no_such_api_can_do_is_refused_in_words(endpoint, body, word):
    with pytest.raises(CallerError, match=word):
        asked(endpoint, body)
