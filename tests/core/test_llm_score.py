"""What a model is asked about a question's difficulty, and what its answer means."""

from __future__ import annotations

import pytest

from orchestrator.core import llm_score
from orchestrator.core.dialects.parse import Turn
from orchestrator.core.difficulty import WINDOW, score

HELLO = (Turn("system", "be kind"), Turn("user", "hello"))


def test_the_users_last_turns_are_judged_and_nobody_elses() -> None:
    turns = (Turn("user", "one"), Turn("assistant", "no"), Turn("user", "two"), Turn("user", "three"))
    judged = llm_score.prompt((*HELLO, *turns))
    assert [each in judged for each in ("be kind", "hello", "one", "no\n", "two", "three")] == [False] * 4 + [True] * 2


def test_of_a_long_text_the_middle_is_left_out() -> None:
    judged = llm_score.prompt((Turn("user", "a" * WINDOW + "b" * 9_000 + "c" * WINDOW),))
    assert len(judged) < 2 * WINDOW + 200
    assert "b" not in judged.replace("<request>", "").partition("Judge")[0].replace("[…]", "")


def test_the_answer_is_bound_to_a_kind_and_a_level_and_to_few_tokens() -> None:
    body = llm_score.body("m", llm_score.prompt(HELLO))
    assert body["format"] == llm_score.SCHEMA
    assert (body["think"], body["stream"]) == (False, False)
    assert body["options"] == {"temperature": 0, "num_predict": llm_score.TOKENS}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('{"type": "TASK", "complexity": 7}', ("TASK", 7)),
        ('{"type":"CHAT","complexity":1,"more":0}', ("CHAT", 1)),
        ('{"type": "TASK", "complexity": 11}', None),
        ('{"type": "TASK", "complexity": 0}', None),
        ('{"type": "TASK", "complexity": true}', None),
        ('{"type": "TASK", "complexity": "7"}', None),
        ('{"type": "OTHER", "complexity": 7}', None),
        ('{"type": ["TASK"], "complexity": 7}', None),
        ('{"complexity": 7}', None),
        ('["TASK", 7]', None),
        ('{"type": "TASK", "comp', None),
        ("I cannot tell.", None),
        ("", None),
    ],
)
def test_what_is_not_what_was_asked_for_says_nothing(text: str, meant: tuple[str, int] | None) -> None:
    assert llm_score.read(text) == meant


def test_a_models_word_replaces_the_level_and_leaves_the_work_and_the_language() -> None:
    trained = score((Turn("user", "Write a Python function that sorts a list."),))
    told = llm_score.judged_by("m", ("TASK", 9), trained)
    assert (told.level, told.kind, told.points, told.guessed) == (9, "TASK", 9.0, 0.0)
    assert (told.work, told.language) == (trained.work, trained.language)
    assert told.reasons == ("m says TASK of complexity 9",)
    without = llm_score.unjudged("m is away", trained)
    assert (without.level, without.reasons[0]) == (trained.level, "by the trained weights: m is away")


def test_a_word_is_remembered_by_model_and_text() -> None:
    names = {llm_score.digest(model, text) for model in ("a", "b") for text in ("x", "y")}
    assert len(names) == 4
    assert llm_score.digest("a", "x") in names
