"""Choices that a question gives are read as they are written, and make it as hard as such questions were."""

from __future__ import annotations

import pytest

from orchestrator.core.dialects.parse import Turn
from orchestrator.core.difficulty import score
from orchestrator.core.difficulty_choices import CHOICES, choices_of

ORGAN = "Which organ pumps blood?\nA. the heart\nB. the liver\nC. a lung\nD. skin\nAnswer:"


def signs(text: str) -> dict[str, float]:
    return dict(zip(CHOICES, choices_of(text), strict=True))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (ORGAN, {"asks": 1.0, "numbers": 0.0, "maths": 0.0, "lines": pytest.approx(0.693, abs=0.01)}),
        ("The root of 2x = 8 is\nA. 4\nB. -2\nC. 1/2\nD. none", {"asks": 0.0, "numbers": 0.75, "maths": 1.0}),
        ("Is it so?\nA) True, False\nB) False, True", {"yes_or_no": 1.0}),
        ("Mitoz mudur?\nA) Evet\nB) Hayır", {"yes_or_no": 1.0}),
        ("A patient coughs. What is most likely?\nA. flu\nB. cold", {"people": 1.0, "weighed": 1.0}),
        ("Kaç gün sürer, hesaplayın.\nA. 3\nB. 4", {"worked_out": 1.0, "numbers": 1.0}),
    ],
)
def test_how_a_question_asks_and_what_its_choices_are_is_told(text, told):
    assert {name: value for name, value in signs(text).items() if name in told} == told


def test_choices_that_are_like_one_another_or_echo_the_question_are_told():
    far, near = signs(ORGAN), signs("Of rights, which?\nA. rights of man\nB. rights of a state\nC. no rights of man")
    assert far["alike"] < near["alike"]
    assert far["echoed"] < near["echoed"]
    assert far["shared"] == 0.0 < near["shared"]


def test_a_list_in_the_question_is_not_taken_for_its_choices():
    assert signs(f"Given:\nA. 1\nB. 2\nC. 3\n{ORGAN}")["numbers"] == 0.0


@pytest.mark.parametrize("text", ["", "no choices at all", "B. only one that is no first"])
def test_without_choices_nothing_is_told_of_them(text):
    assert choices_of(text)[:4] == (0.0,) * 4


@pytest.mark.timeout(10)
@pytest.mark.parametrize("unit", ["A. ", "A. 1\n", "B. 1x", "1e", "%", "\n", "A.", "-1.", "true ", "how many "])
def test_hostile_choices_cost_no_more_than_their_length(unit):
    for _ in range(20):
        choices_of(f"why?\nA. 1\nB. {unit * 4000}")


def test_choices_add_points_to_a_question_that_gives_some_and_to_no_other():
    def told(text: str) -> set[str]:
        return {each.rsplit(" (", 1)[0] for each in score((Turn("user", text),)).reasons} & set(CHOICES.values())

    assert {CHOICES["words"], CHOICES["asks"]} <= told(ORGAN)
    assert not told("Which organ pumps blood, and does it do so while we sleep?")
