"""A kept answer is found again for the same question only: whatever can change an answer changes its key."""

from __future__ import annotations

import copy
import unicodedata

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.cachekey import Bypass, answer_key, bypass, is_deterministic, normalise
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.model import Call, Endpoint

CHAT, GENERATE = Endpoint.OLLAMA_CHAT, Endpoint.OLLAMA_GENERATE
V1_CHAT, V1_COMPLETIONS = Endpoint.OPENAI_CHAT, Endpoint.OPENAI_COMPLETIONS
SECRET = b"0123456789abcdef"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "merhaba"}]}
PROMPT = {"model": "m", "prompt": "merhaba"}


def call(endpoint: Endpoint, body: dict) -> Call:
    return parse_call(endpoint, orjson.dumps(body))


def key(endpoint: Endpoint, body: dict, *, tenant: str = "t", target: str = "m", secret: bytes = SECRET) -> str:
    return answer_key(tenant=tenant, target=target, call=call(endpoint, body), secret=secret)


def said(text: str, role: str = "user") -> dict:
    return {"model": "m", "messages": [{"role": role, "content": text}]}


# --- what changes a key ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "base", "change"),
    [
        # An exact cache that read sampling at the top level alone missed Ollama's options, and forgot all the rest.
        (CHAT, HELLO, {"options": {"temperature": 0.9}}),
        (CHAT, HELLO | {"options": {"temperature": 0}}, {"options": {"temperature": 0.1}}),
        (CHAT, HELLO | {"options": {"seed": 1}}, {"options": {"seed": 2}}),
        (CHAT, HELLO, {"options": {"num_ctx": 512}}),
        (CHAT, HELLO, {"options": {"stop": ["."]}}),
        (CHAT, HELLO, {"options": {"num_predict": 5}}),
        (CHAT, HELLO, {"temperature": 0.9}),
        (V1_CHAT, HELLO, {"temperature": 0.9}),
        (V1_CHAT, HELLO, {"seed": 7}),
        (V1_CHAT, HELLO, {"max_tokens": 5}),
        (CHAT, HELLO, {"format": "json"}),
        (CHAT, HELLO | {"format": "json"}, {"format": {"type": "object"}}),
        (V1_CHAT, HELLO, {"response_format": {"type": "json_object"}}),
        (CHAT, HELLO, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        (CHAT, HELLO, {"think": True}),
        (CHAT, HELLO | {"think": True}, {"think": False}),
        (GENERATE, PROMPT, {"system": "Be brief."}),
        (GENERATE, PROMPT, {"template": "{{ .Prompt }}"}),
        (GENERATE, PROMPT, {"raw": True}),
        (GENERATE, PROMPT, {"images": ["QQ=="]}),
        (GENERATE, PROMPT | {"images": ["QQ=="]}, {"images": ["QR=="]}),
        (GENERATE, PROMPT, {"suffix": "}"}),
        (GENERATE, PROMPT, {"context": [1, 2]}),
        (V1_COMPLETIONS, PROMPT, {"best_of": 2}),
        (CHAT, HELLO, {"a_field_of_next_year": 1}),
    ],
)
def test_every_field_that_is_not_known_to_be_harmless_changes_the_key(endpoint, base, change):
    assert key(endpoint, base) != key(endpoint, base | change)


@pytest.mark.parametrize(
    "other",
    [
        said("merhaba", role="system"),
        said("merhaba", role="assistant"),
        said("merhaba2"),
        said("mer haba"),
        said("Merhaba"),
        said("merhaba!"),
        said("değil merhaba"),
        {"model": "m", "messages": [{"role": "system", "content": "Kısa yaz."}, *HELLO["messages"]]},
        {"model": "m", "messages": [*HELLO["messages"], *HELLO["messages"]]},
        {"model": "m", "messages": [{"role": "user", "content": "merhaba", "images": ["QQ=="]}]},
    ],
)
def test_near_misses_in_the_conversation_have_another_key(other):
    assert key(CHAT, HELLO) != key(CHAT, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sınır nedir", "sinir nedir"),
        ("SINIR", "sınır"),
        ("is it safe", "is it not safe"),
        ("10² kaç", "102 kaç"),
        ("5! kaç", "5 kaç"),
        ("5!", "5"),
        ("US", "us"),
        ("if x:\n  a\n  b", "if x:\n  a\nb"),
        ("  a", "a"),
        ("a b", "ab"),
    ],
)
def test_texts_with_another_meaning_are_never_one(one, other):
    assert normalise(one) != normalise(other)
    assert key(CHAT, said(one)) != key(CHAT, said(other))


def test_tenants_targets_endpoints_and_secrets_each_have_keys_of_their_own():
    base = key(CHAT, HELLO)
    others = [
        key(CHAT, HELLO, tenant="u"),
        key(CHAT, HELLO, tenant=""),
        key(CHAT, HELLO, target="auto"),
        key(V1_CHAT, HELLO),
        key(CHAT, HELLO, secret=b"f" * 16),
    ]
    assert len({base, *others}) == 6


def test_a_tenants_name_cannot_be_stretched_into_the_target():
    assert key(CHAT, HELLO, tenant="a", target="bc") != key(CHAT, HELLO, tenant="ab", target="c")


# --- what does not --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "change"),
    [
        (CHAT, {"stream": False}),
        (CHAT, {"stream": True}),
        (CHAT, {"keep_alive": "10m"}),
        (CHAT, {"model": "m:latest"}),
        (V1_CHAT, {"stream": True}),
        (V1_CHAT, {"stream": True, "stream_options": {"include_usage": True}}),
        (V1_CHAT, {"user": "ayşe"}),
        (V1_CHAT, {"metadata": {"run": "7"}}),
        (CHAT, {"format": None}),
    ],
)
def test_streaming_and_the_fields_without_a_say_leave_the_key_alone(endpoint, change):
    assert key(endpoint, HELLO) == key(endpoint, HELLO | change)


def test_the_order_of_fields_leaves_the_key_alone():
    one = HELLO | {"options": {"seed": 1, "top_k": 2}}
    other = {"options": {"top_k": 2, "seed": 1}, **dict(reversed(HELLO.items()))}
    assert key(CHAT, one) == key(CHAT, other)


@pytest.mark.parametrize(
    "same", ["merhaba şehir\n", "\nmerhaba şehir  ", unicodedata.normalize("NFD", "merhaba şehir")]
)
def test_what_a_reader_cannot_see_in_a_message_leaves_the_key_alone(same):
    assert key(CHAT, said(same)) == key(CHAT, said("merhaba şehir"))
    assert key(GENERATE, {"prompt": same, "model": "m"}) == key(GENERATE, {"prompt": "merhaba şehir", "model": "m"})


def test_windows_line_ends_are_line_ends():
    assert key(CHAT, said("a\r\nb\rc")) == key(CHAT, said("a\nb\nc"))


@pytest.mark.parametrize("verbatim", [{"raw": True}, {"suffix": "x"}, {"template": "{{ .Prompt }}"}])
def test_a_prompt_that_goes_to_the_model_as_it_is_keeps_its_blanks_in_the_key(verbatim):
    assert key(GENERATE, PROMPT | verbatim) != key(GENERATE, PROMPT | verbatim | {"prompt": "merhaba "})
    assert key(V1_COMPLETIONS, PROMPT) != key(V1_COMPLETIONS, PROMPT | {"prompt": "merhaba "})


def test_the_start_of_an_answer_given_along_keeps_its_blanks_in_the_key():
    assert key(CHAT, said("The answer is", role="assistant")) != key(CHAT, said("The answer is ", role="assistant"))


# --- keys themselves ------------------------------------------------------------------------------------------------


def test_a_key_is_hex_and_long_enough_never_to_meet_another():
    assert len(key(CHAT, HELLO)) == 48
    assert set(key(CHAT, HELLO)) <= set("0123456789abcdef")


def test_any_length_of_secret_is_taken_but_none_at_all_is_refused():
    assert key(CHAT, HELLO, secret=b"s" * 65) != key(CHAT, HELLO, secret=b"s" * 66)
    with pytest.raises(ValueError, match="secret"):
        key(CHAT, HELLO, secret=b"")


def test_what_only_lenient_json_lets_through_has_keys_too():
    bodies = [{"prompt": "x", "n": value} for value in (2**70, 2**70 + 1, "\ud800", "\ud801")]
    keys = {answer_key(tenant="", target="m", call=Call(GENERATE, "m", True, body), secret=SECRET) for body in bodies}
    assert len(keys) == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4), st.dictionaries(st.text(), JSON, max_size=4))
def test_two_calls_share_a_key_only_if_they_are_the_same_in_all_fields(one, other):
    made = [
        answer_key(tenant="", target="m", call=Call(V1_COMPLETIONS, "m", False, {"x": body}), secret=SECRET)
        for body in (one, other)
    ]
    assert (made[0] == made[1]) == (repr(_sorted(one)) == repr(_sorted(other)))


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_a_calls_body_is_left_as_it_was(body):
    body = {**body, "messages": [{"role": "user", "content": "a\r\n "}]}
    before = copy.deepcopy(body)
    answer_key(tenant="", target="m", call=Call(CHAT, "m", False, body), secret=SECRET)
    assert body == before


@given(st.text())
def test_normalising_twice_is_normalising_once(text):
    assert normalise(normalise(text)) == normalise(text)


def _sorted(value):
    if isinstance(value, dict):
        return [(name, _sorted(value[name])) for name in sorted(value)]
    return [_sorted(each) for each in value] if isinstance(value, list) else value


# --- what may be kept -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "body", "is_one_answer"),
    [
        (CHAT, HELLO, False),
        (CHAT, HELLO | {"options": {"temperature": 0}}, True),
        (CHAT, HELLO | {"options": {"temperature": 0.0}}, True),
        (CHAT, HELLO | {"options": {"temperature": 0.7}}, False),
        (CHAT, HELLO | {"options": {"temperature": False}}, False),
        (CHAT, HELLO | {"options": {"temperature": "0"}}, False),
        (CHAT, HELLO | {"temperature": 0}, False),
        (CHAT, HELLO | {"options": {"temperature": 0.7, "seed": 42}}, True),
        (CHAT, HELLO | {"options": {"seed": 0}}, True),
        (CHAT, HELLO | {"options": {"seed": -1}}, False),
        (V1_CHAT, HELLO | {"temperature": 0}, True),
        (V1_CHAT, HELLO | {"seed": 3}, True),
        (V1_CHAT, HELLO | {"options": {"temperature": 0}}, False),
        (V1_COMPLETIONS, PROMPT | {"temperature": 0}, True),
    ],
)
def test_a_call_is_deterministic_by_what_its_own_dialect_reads(endpoint, body, is_one_answer):
    assert is_deterministic(call(endpoint, body)) is is_one_answer


@pytest.mark.parametrize(
    ("policy", "is_certain", "may"),
    [
        ("off", True, False),
        ("deterministic", True, True),
        ("deterministic", False, False),
        ("all", True, True),
        ("all", False, True),
        ("no such policy", True, False),
    ],
)
def test_the_policy_decides_which_calls_may_be_kept(policy, is_certain, may):
    asked = call(V1_CHAT, HELLO | ({"temperature": 0} if is_certain else {}))
    assert (bypass(policy, asked) is None) is may
    assert bypass(policy, asked, headers_no_store=True) is Bypass.NO_STORE


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (Endpoint.OLLAMA_EMBED, {"model": "m", "input": "x"}),
        (Endpoint.OLLAMA_EMBEDDINGS, {"model": "m", "prompt": "x"}),
        (Endpoint.OPENAI_EMBEDDINGS, {"model": "m", "input": "x"}),
        (CHAT, {"model": "m"}),
        (GENERATE, {"model": "m", "keep_alive": 0}),
        (CHAT, HELLO | {"options": {"temperature": 0}, "logprobs": True}),
        (V1_CHAT, HELLO | {"temperature": 0, "logprobs": True, "top_logprobs": 2}),
        (GENERATE, PROMPT | {"options": {"temperature": 0}, "context": [1, 2]}),
    ],
)
def test_vectors_loads_and_what_an_answer_does_not_hold_are_never_kept(endpoint, body):
    assert bypass("all", call(endpoint, body)) in (Bypass.KIND, Bypass.FIELDS)


TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}
TOOL_RESULT = {"messages": [*HELLO["messages"], {"role": "tool", "content": "21 °C"}]}


@pytest.mark.parametrize("with_tools", [TOOLS, TOOL_RESULT])
def test_with_tools_only_a_deterministic_call_is_kept(with_tools):
    drawn, certain = call(CHAT, HELLO | with_tools), call(CHAT, HELLO | with_tools | {"options": {"temperature": 0}})
    assert bypass("all", drawn) is Bypass.TOOLS
    assert bypass("all", certain) is None
