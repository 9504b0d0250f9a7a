"""One spelling for plain questions, and none where a capital, a mark or a sign is the question."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.cachekey import answer_key
from orchestrator.core.folding import folded
from orchestrator.core.model import Call, Endpoint

SAME = [
    ("Otoyol hız limiti nedir?", "otoyol  hız limiti nedir"),
    ("OTOYOL HIZ LİMİTİ NEDİR", "otoyol hız limiti nedir?!"),
    ("İstanbul'un nüfusu kaç", "istanbul’un nüfusu kaç ?"),
    ("ISPARTA nerede?", "Isparta nerede"),
    ("What is the capital of France?", "what is the capital of france"),
    ("What is the capital of France", "Ｗｈａｔ is the\u00a0capital of France…"),
    ("What is 5 % of 200?", "what is 5 % of 200"),
    ("Who wrote Hamlet", "WHO WROTE HAMLET?"),
]
OTHERS = [
    ("Sınır nedir", "Sinir nedir"),
    ("Who leads the US?", "Who leads the us?"),
    ("US", "us"),
    ("What is the WHO?", "what is the who"),
    ("What is 5!", "What is 5"),
    ("What is 10² of it", "What is 102 of it"),
    ("How much is ½ of 12", "How much is 12 of 12"),
    ("What is 1,5 of it", "What is 15 of it"),
    ("What is 5 - 3", "What is 5 3"),
    ("What is -5 plus 3", "What is 5 plus 3"),
    ("Is NaN a number", "Is nan bread a number"),
    ("How do you spell Polish?", "How do you spell polish?"),
    ("Translate: Turkey", "Translate: turkey"),
    ("print('A')", "print('a')"),
    ("What does `A` do", "What does `a` do"),
    ("Was heißt Essen?", "Was heißt essen?"),
    ("line one\nline two", "line one line two"),
]


def key(text: str, folds: bool = True, endpoint: Endpoint = Endpoint.OLLAMA_CHAT, **more: Any) -> str:
    body: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": text}], **more}
    call = Call(endpoint, "auto", False, {name: value for name, value in body.items() if value is not None})
    question = text.strip()
    return answer_key(tenant="t", target="auto", call=call, secret=b"s" * 32, question=question, folds=folds)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_a_plain_question_is_one_however_it_is_typed(one: str, other: str) -> None:
    assert key(one) == key(other)
    assert key(one, folds=False) != key(other, folds=False), "but not where it counts by its letter"


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_where_a_letter_a_mark_or_a_sign_counts_they_stay_two(one: str, other: str) -> None:
    assert key(one) != key(other)


def test_everything_else_of_the_call_is_in_the_key_as_before() -> None:
    question = "What is the capital of France?"
    plain = key(question)
    assert plain != key(question, options={"temperature": 1})
    assert plain != key(question, think=True)
    assert plain != key("What is the capital of Spain?")


QUESTION = "What is the capital of France?"
ZERO = {
    Endpoint.OLLAMA_CHAT: {"options": {"temperature": 0, "num_predict": 9}},
    Endpoint.OLLAMA_GENERATE: {"options": {"temperature": 0.0, "num_predict": 9}, "prompt": QUESTION, "messages": None},
    Endpoint.OPENAI_CHAT: {"temperature": 0, "max_tokens": 9, "stream": True, "user": "x"},
    Endpoint.OPENAI_RESPONSES: {"temperature": 0, "max_output_tokens": 9, "input": QUESTION, "messages": None},
}


def test_a_plain_question_is_one_in_every_dialect_where_it_is_drawn_alike() -> None:
    assert len({key(QUESTION, endpoint=endpoint, **body) for endpoint, body in ZERO.items()}) == 1
    assert len({key(QUESTION, endpoint=each) for each in (Endpoint.OLLAMA_CHAT, Endpoint.OPENAI_CHAT)}) == 1


@pytest.mark.parametrize(
    "more",
    [
        {"seed": 1},  # each dialect has a temperature of its own
        {"temperature": 0, "response_format": {"type": "json_object"}},
        {"temperature": 0, "logit_bias": {"1": 2}},
        {"temperature": 0, "something_new": 1},
    ],
)
def test_what_says_more_than_a_question_is_another_in_another_dialect(more: dict[str, Any]) -> None:
    ours = {"options": {name: more[name] for name in ("seed", "temperature") if name in more}}
    rest = {name: value for name, value in more.items() if name not in ours["options"]}
    assert key(QUESTION, endpoint=Endpoint.OPENAI_CHAT, **more) != key(QUESTION, **ours, **rest)


@given(st.text(max_size=60) | st.sampled_from([each for pair in SAME + OTHERS for each in pair]))
def test_folding_twice_is_folding_once_and_loses_no_letter_or_digit(text: str) -> None:
    once = folded(text)
    if once is not None:
        assert folded(once) in (once, None)
        kept = [each for each in unicodedata.normalize("NFKC", text) if each.isalnum()]
        assert len([each for each in once if each.isalnum()]) == len(kept)
