"""A curated answer is given for its own questions only, however they are typed."""

from __future__ import annotations

import unicodedata
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import orchestrator
from orchestrator.core.dialects.parse import Turn
from orchestrator.core.faq import Faq, FaqEntry, FaqError, fold, question_of
from orchestrator.core.faq_files import parse_faq

SAMPLE = Path(orchestrator.__file__).parent / "data" / "faq.yaml"
EXAMPLES = SAMPLE.with_name("faq-examples.yaml")
TODAY = date(2026, 6, 1)


def load_faq(text: str, name: str, *, paraphrases: bool = False) -> Faq:
    return Faq.from_entries(parse_faq(text, name), paraphrases=paraphrases)


def faq(*pairs: tuple[str, str], language: str = "tr") -> Faq:
    return Faq.from_entries(FaqEntry((question,), answer, language, origin=answer) for question, answer in pairs)


def answer(known: Faq, question: str, today: date = TODAY) -> str | None:
    entry = known.match(question, today)
    return entry.answer if entry else None


# --- matching -------------------------------------------------------------------------------------------------------

LIMITS = faq(("şehir içi hız limiti", "50 km/h"), ("şehirler arası hız limiti", "90 km/h"))


@pytest.mark.parametrize(
    "typed",
    [
        "şehir içi hız limiti",
        "Şehir içi hız limiti?",
        "ŞEHİR İÇİ HIZ LİMİTİ",
        "SEHIR ICI HIZ LIMITI",
        "ŞEHIR IÇI HIZ LIMITI",
        "sehir ici hiz limiti ?!",
        "sehir içi hız limiti",
        "  şehir\u00a0 içi\nhız   limiti...",
        unicodedata.normalize("NFD", "şehir içi hız limiti"),
        "\ufeffşehir içi\u200b hız limiti",
    ],
)
def test_a_question_is_found_in_any_case_with_any_blanks_and_without_its_marks(typed):
    assert answer(LIMITS, typed) == "50 km/h"


@pytest.mark.parametrize(
    "typed",
    [
        "şehir içi hız limiti değil",
        "şehir dışı hız limiti",
        "şehirler içi hız limiti",
        "şehir içi hızlimiti",
        "şehir içi hız limiti 2",
        "şehır içi hız limiti",
        "",
        "?",
        "x" * 1_000_000,
    ],
)
def test_one_word_letter_or_mark_too_many_is_another_question(typed):
    assert answer(LIMITS, typed) is None


def test_questions_that_differ_by_a_word_keep_their_own_answers():
    known = faq(("is it safe", "yes"), ("is it not safe", "no"), language="en")
    assert answer(known, "Is it safe?") == "yes"
    assert answer(known, "IS IT NOT SAFE") == "no"
    assert answer(known, "not is it safe") is None
    assert answer(LIMITS, "SEHIRLER ARASI HIZ LIMITI") == "90 km/h"


BORDER = ("sınır nedir", "a border")
NERVE = ("sinir nedir", "a nerve")


def test_words_that_fall_together_without_marks_are_told_apart_by_them():
    known = faq(BORDER, NERVE)
    assert answer(known, "sınır nedir?") == "a border"
    assert answer(known, "sinir nedir?") == "a nerve"
    assert answer(known, "SİNİR NEDİR") == "a nerve"
    assert answer(known, "SINIR NEDİR") == "a border"


def test_where_marks_would_decide_and_case_hides_them_nothing_is_guessed():
    assert answer(faq(BORDER, NERVE), "SINIR NEDIR") is None
    pair = faq(("ölü müdür", "one"), ("ölü mudur", "two"))
    assert answer(pair, "ölü müdür") == "one"
    assert answer(pair, "olu mudur") is None


def test_marks_are_left_off_but_never_put_on():
    assert answer(faq(BORDER), "sinir nedir") == "a border"
    assert answer(faq(NERVE), "sınır nedir") is None
    assert answer(faq(NERVE), "SINIR NEDİR") is None


@pytest.mark.parametrize(
    ("one", "other"), [("10² kaç", "102 kaç"), ("5! kaç", "5 kaç"), ("5!", "5"), ("½ kaç", "12 kaç")]
)
def test_signs_that_change_a_number_are_kept(one, other):
    assert fold(one, "tr") != fold(other, "tr")


def test_english_questions_have_an_english_i():
    known = faq(("what is WIFI", "radio"), language="en")
    assert answer(known, "What is wifi?") == "radio"
    assert answer(known, "WHAT IS WIFI") == "radio"


def test_apostrophes_are_one_letter_whichever_was_typed():
    assert answer(faq(("Türkiye'nin başkenti", "Ankara")), "TÜRKİYE’NİN BAŞKENTİ") == "Ankara"


@given(st.text(max_size=40), st.sampled_from(["tr", "en"]))
def test_folding_twice_is_folding_once(text, language):
    assert fold(fold(text, language), language) == fold(text, language)


@given(st.text(max_size=60))
def test_any_text_at_all_is_either_answered_or_not(text):
    assert answer(LIMITS, text) in (None, "50 km/h", "90 km/h")


# --- times ----------------------------------------------------------------------------------------------------------


def test_an_entry_answers_from_its_first_day_to_its_last():
    entry = FaqEntry(("vergi",), "20 %", "tr", valid_from=date(2026, 1, 1), valid_until=date(2026, 6, 30))
    known = Faq.from_entries([entry])
    answers = {day: answer(known, "vergi", day) for day in (date(2025, 12, 31), date(2026, 1, 1), date(2026, 6, 30))}
    assert list(answers.values()) == [None, "20 %", "20 %"]
    assert answer(known, "VERGI", date(2026, 7, 1)) is None


def test_an_answer_may_change_on_a_day():
    old = FaqEntry(("vergi",), "18 %", "tr", valid_until=date(2025, 12, 31))
    new = FaqEntry(("vergi",), "20 %", "tr", valid_from=date(2026, 1, 1))
    known = Faq.from_entries([old, new])
    assert answer(known, "vergi", date(2025, 12, 31)) == "18 %"
    assert answer(known, "vergi", date(2026, 1, 1)) == "20 %"


def test_an_expired_question_does_not_fall_back_to_one_with_other_marks():
    expired = FaqEntry(("sinir nedir",), "a nerve", "tr", valid_until=date(2020, 1, 1))
    assert answer(Faq.from_entries([expired, FaqEntry(("sınır nedir",), "a border", "tr")]), "sinir nedir") is None


# --- contradictions -------------------------------------------------------------------------------------------------


def test_a_question_with_two_answers_is_refused_and_both_places_are_named():
    text = (
        "- {questions: ['Hız limiti?'], answer: a, language: tr}\n- {questions: [hız  LİMİTİ], answer: b, language: tr}"
    )
    with pytest.raises(FaqError) as caught:
        load_faq(text, "faq.yaml")
    assert "faq.yaml:2, questions: 'hız  LİMİTİ' has another answer in faq.yaml:1;" in str(caught.value)


def test_the_same_answer_twice_is_no_contradiction():
    assert answer(faq(("hız", "50"), ("HIZ?", "50")), "hız") == "50"


def test_contradictions_between_files_are_found_when_they_are_joined():
    one, two = (load_faq(f"- {{questions: [hız], answer: '{n}', language: tr}}", f"{n}.yaml") for n in (1, 2))
    with pytest.raises(FaqError, match=r"2\.yaml:1.*1\.yaml:1"):
        Faq.from_entries([*one, *two])


def test_an_empty_faq_answers_nothing():
    assert len(Faq()) == 0
    assert answer(Faq(), "hız") is None


# --- what may be answered -------------------------------------------------------------------------------------------

USER = Turn("user", " hız limiti? ")


def test_a_users_only_turn_is_a_question():
    assert question_of((USER,)) == "hız limiti?"
    assert question_of((Turn("system", "  "), USER)) == "hız limiti?"


@pytest.mark.parametrize(
    "turns",
    [
        (),
        (Turn("user", "  "),),
        (Turn("system", "Answer in French."), USER),
        (Turn("developer", "Answer in French."), USER),
        (USER, Turn("assistant", "50"), USER),
        (USER, Turn("assistant", "")),
        (USER, USER),
        (Turn("tool", "50"), USER),
        (Turn("user", "hız limiti?", has_images=True),),
        (Turn("assistant", "hız limiti?"),),
    ],
)
def test_anything_around_a_question_makes_it_another_one(turns):
    assert question_of(turns) is None


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{}]},
        {"format": "json"},
        {"response_format": {"type": "json_object"}},
        {"context": [1]},
        {"suffix": "x"},
        {"template": "x"},
        {"raw": True},
        {"logprobs": True},
        {"unheard_of": 1},
    ],
)
def test_a_call_that_wants_more_than_a_text_is_not_given_one(more):
    assert question_of((USER,), {"model": "auto", "messages": []} | more) is None


def test_sampling_streaming_and_empty_fields_do_not_keep_an_answer_from_a_call():
    plain = {"model": "auto", "stream": True, "options": {"temperature": 1}, "tools": [], "format": "", "user": "x"}
    assert question_of((USER,), plain) == "hız limiti?"


# --- the sample -----------------------------------------------------------------------------------------------------


def test_the_sample_answers_the_owners_questions_and_every_one_of_its_own():
    known = load_faq(SAMPLE.read_text(encoding="utf-8"), "faq.yaml")
    assert len(known) >= 60
    assert {entry.language for entry in known} == {"tr", "en"}
    assert answer(known, "şehir içi hız limiti") == "50 km/h"
    assert answer(known, "otoyol hız limiti") == "120 km/h"
    assert answer(known, "ACIL DURUM NUMARASI") == "112"
    for entry in known:
        for question in entry.questions:
            assert answer(known, question + "?") == entry.answer
            assert answer(known, question.replace("i", "İ").replace("ı", "I").upper()) in (entry.answer, None)


def test_ten_thousand_entries_load_and_each_is_found():
    lines = (f'- {{questions: ["şehir {n} nerede"], answer: "yanıt {n}", language: tr}}' for n in range(10_000))
    known = load_faq("\n".join(lines), "large.yaml")
    assert len(known) == 10_000
    assert answer(known, "SEHIR 9999 NEREDE?") == "yanıt 9999"


def test_the_examples_are_valid_and_none_of_them_can_be_taken_for_another():
    known = load_faq(EXAMPLES.read_text(encoding="utf-8"), EXAMPLES.name, paraphrases=True)
    assert {entry.language for entry in known} == {"tr", "en"}
    for entry in known:
        for question in entry.questions:
            near = known.neighbours(question, TODAY)
            assert not [each for each in near if each.entry.answer != entry.answer and not each.compared.objections]


# --- in other words -------------------------------------------------------------------------------------------------


def in_other_words(*pairs: tuple[str, str], language: str = "tr") -> Faq:
    entries = [FaqEntry((question,), answer, language, origin=f"/srv/faq.yaml:{answer}") for question, answer in pairs]
    return Faq.from_entries(entries, paraphrases=True)


WIDE = in_other_words(("şehir içi hız limiti nedir", "50"), ("otoyol hız limiti nedir", "120"))


def test_a_paraphrase_is_answered_and_says_by_which_entry_and_how():
    found = WIDE.find("Merhaba, otobanda hız sınırı ne kadar acaba?", TODAY)
    assert found is not None
    assert (found.entry.answer, found.question, found.how) == ("120", "otoyol hız limiti nedir", "paraphrase")
    assert found.told.startswith("faq.yaml:120; match=paraphrase; likeness=0.9")


def test_word_for_word_goes_first_and_says_so():
    found = WIDE.find("OTOYOL HIZ LİMİTİ NEDİR?", TODAY)
    assert found is not None
    assert (found.how, found.likeness, found.told) == ("words", None, "faq.yaml:120; match=words")


def test_without_paraphrases_other_words_are_another_question():
    assert LIMITS.find("otobanda hız sınırı ne kadar", TODAY) is None


def test_an_entry_may_be_kept_from_paraphrases():
    entry = FaqEntry(("ilaç dozu kaç mg",), "5 mg", "tr", paraphrases=False)
    known = Faq.from_entries([entry], paraphrases=True)
    assert known.find("ilaç dozu kaç mg?", TODAY) is not None
    assert known.find("ilacın dozu kaç mg", TODAY) is None


def test_an_entry_out_of_its_time_answers_no_paraphrase():
    entry = FaqEntry(("asgari ücret ne kadar",), "x", "tr", valid_until=date(2026, 1, 1))
    known = Faq.from_entries([entry], paraphrases=True)
    assert known.find("asgari ücretler ne kadar", TODAY) is None
    assert known.find("asgari ücretler ne kadar", date(2025, 12, 31)) is not None


def test_where_two_entries_may_be_meant_neither_answers():
    known = in_other_words(("how do I delete a model", "one"), ("how do I remove models", "two"), language="en")
    assert known.find("how can I delete the models", TODAY) is None
    assert len(known.neighbours("how can I delete the models", TODAY)) == 2


def test_letters_that_the_exact_layer_does_not_trust_do_not_pass_as_a_paraphrase():
    known = in_other_words(NERVE)
    for question in ("sınır nedir", "SINIR NEDİR", "sınır ne demek", "bir sınır nedir acaba"):
        assert known.find(question, TODAY) is None, question


def test_neighbours_say_what_speaks_against_them():
    near = WIDE.neighbours("kamyonlar için otoyol hız limiti nedir", TODAY)
    assert [each.entry.answer for each in near] == ["120", "50"]
    assert near[0].compared.objections == ("word only in what is asked: 'kamyonlar'",)


@given(st.text(max_size=60))
def test_any_text_at_all_may_be_asked(text):
    WIDE.find(text, TODAY)
    WIDE.neighbours(text, TODAY)
