"""Questions get the level that their features add up to, in both languages, and doubt raises it."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core import difficulty as module
from orchestrator.core.dialects.parse import Turn
from orchestrator.core.difficulty import CHAT, TASK, WINDOW, doubt_of, score
from orchestrator.core.difficulty_answer import ANSWER, answer_of
from orchestrator.core.difficulty_cues import _INDEX, Cue, count_cues

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "routing-eval" / "dev.jsonl.gz"


def ask(text: str, **asked: bool):
    return score((Turn("user", text),), **asked)


@pytest.mark.parametrize("text", ["merhaba", "Merhaba, nasılsın?", "TEŞEKKÜRLER", "hi", "Good morning!", "iyi günler"])
def test_small_talk_is_the_easiest_chat(text):
    assert (ask(text).level, ask(text).kind) == (1, CHAT)


@pytest.mark.parametrize(
    "text", ["şehir içi hız limiti", "DNA nedir?", "What is a noun?", "bir yılda kaç gün var", "capital of France"]
)
def test_facts_and_definitions_are_easy_chat(text):
    assert ask(text).level <= 2
    assert ask(text).kind == CHAT


@pytest.mark.parametrize(
    "text",
    [
        "Write a Python function that reverses a list",
        "Listeyi ters çeviren bir Python fonksiyonu yaz",
        "```\nx = 1\n```\nne yapar bu",
        "Prove that the square root of 2 is irrational",
        "√2'nin irrasyonel olduğunu ispatla",
        "Şu denklemi adım adım çöz: x^2 - 5x + 6 = 0",
        "Tom has 3 boxes with 12 apples each and sells half of them for 2 dollars per apple. How much does he get?",
        "Ali'nin 5 elması var, 3 tanesini verdi, kalanların yarısını sattı. Kaç elması kaldı?",
    ],
)
def test_code_proofs_and_reckoning_are_tasks_for_the_large_model_in_both_languages(text):
    assert ask(text).kind == TASK
    assert ask(text).level >= 5


@pytest.mark.parametrize(
    "text",
    [
        "Şu metni özetle: " + "Bugün hava güzel, yarın yağmur var. " * 15,
        "Translate 'good morning' to German",
        "Metindeki isimleri ayıkla: Ayşe ile Mehmet dün geldi",
    ],
)
def test_short_work_on_a_text_is_a_task_below_five(text):
    assert ask(text).kind == TASK
    assert ask(text).level < 5


@pytest.mark.parametrize("text", ["Explain why the sky is blue", "Neden gökyüzü mavidir, açıkla", "Sonbahar şiiri yaz"])
def test_explaining_and_creative_writing_are_chat_of_middle_difficulty(text):
    assert ask(text).kind == CHAT
    assert 3 <= ask(text).level < 8


@pytest.mark.parametrize("text", ["", "   ", "今天天气怎么样", "telefonum ısınıyor", "zxqv blorp", "\x00\ud800"])
def test_what_it_cannot_judge_goes_up_to_the_large_model(text):
    assert ask(text).kind == TASK
    assert ask(text).level >= 5


def test_each_reason_tells_the_points_it_added_and_together_they_are_the_level():
    judged = ask("Write a Python function, only with the standard library. Must it be fast? Is it?")
    assert "asks for code (+3)" in judged.reasons
    assert sum(float(each.rsplit("(", 1)[1].rstrip(")")) for each in judged.reasons) == pytest.approx(
        judged.points, abs=0.05
    )
    assert judged.points <= judged.level < judged.points + 1


def test_tools_schema_and_pictures_make_a_task_and_raise_the_level():
    plain = ask("Is it warm in Ankara")
    for raised in (
        ask("Is it warm in Ankara", has_tools=True),
        ask("Is it warm in Ankara", has_schema=True),
        score((Turn("user", "Is it warm in Ankara", has_images=True),)),
    ):
        assert raised.kind == TASK
        assert raised.level > plain.level


def test_length_conditions_and_clauses_raise_the_level():
    assert ask("Tell me where it is. " + "It was there and here. " * 40).points > ask("Tell me where it is.").points
    assert ask("Where can it be, if not here, unless at least both moved?").points > ask("Where can it be?").points
    assert ask("Where can it be, here, there, elsewhere?").points > ask("Where can it be here there elsewhere?").points


@pytest.mark.parametrize(
    ("before", "after"),
    [("Fix this SQL query", "now make it generic"), ("Python ile kuyruk kodu", "genişlet")],
)
def test_a_follow_up_in_which_nothing_is_known_is_of_the_kind_of_what_it_follows(before, after):
    followed = score((Turn("user", before), Turn("assistant", "fn"), Turn("user", after)))
    assert (followed.kind, followed.work, followed.guessed) == (TASK, "code", 0)
    small_talk = score((Turn("user", "hello"), Turn("assistant", "hi"), Turn("user", "now make it generic")))
    assert small_talk.guessed, "what follows on little is not known to be little"


def test_a_short_follow_up_is_as_hard_as_what_it_follows():
    hard = Turn("user", "Prove that there are infinitely many primes, step by step")
    followed = score((hard, Turn("assistant", "..."), Turn("user", "and why?")))
    assert followed.level >= score((hard,)).level
    assert followed.kind == TASK
    assert any(each.startswith("follows on") for each in followed.reasons)


def test_thanks_after_a_hard_question_stay_easy():
    hard = Turn("user", "Prove that there are infinitely many primes, step by step")
    assert score((hard, Turn("assistant", "..."), Turn("user", "teşekkürler"))).level == 1


def test_a_system_prompt_that_sets_a_task_makes_chat_a_task():
    asked = (Turn("system", "Extract the name as JSON."), Turn("user", "Where is Ayşe?"))
    assert score(asked).kind == TASK


def test_no_turns_at_all_are_judged_too():
    assert score(()).level >= 5


def test_only_both_ends_of_a_long_text_are_read_but_its_length_counts_whole(monkeypatch):
    read: list[int] = []
    monkeypatch.setattr(module, "count_cues", lambda words: read.append(len(" ".join(words))) or count_cues(words))
    judged = ask("a " * 1_000_000 + "please prove it")
    assert read == [max(read)]
    assert read[0] <= 2 * WINDOW + 1
    assert "asks for a proof or steps (+3)" in judged.reasons
    assert any(each.startswith("its length") for each in judged.reasons)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "unit", ["a", " ", "\n ", "1", "1.", "=", "a =", "a= ", "\\", "^1", "- ", "`", "ş", "i̇", "step by "]
)
def test_hostile_repetition_costs_no_more_than_its_length(unit):
    # Patterns that backtrack would take seconds for one of these; all are read in microseconds a kilobyte.
    for _ in range(20):
        ask(unit * 100_000)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool", ""]), st.text()), max_size=6),
    st.booleans(),
    st.booleans(),
)
def test_any_conversation_has_a_level_from_one_to_ten_and_always_the_same(said, has_tools, has_schema):
    turns = [Turn(role, text) for role, text in said]
    judged = score(turns, has_tools=has_tools, has_schema=has_schema)
    assert 1 <= judged.level <= 10
    assert judged.kind in (CHAT, TASK)
    assert judged == score(turns, has_tools=has_tools, has_schema=has_schema)


def test_turkish_words_are_known_in_any_case_and_without_their_marks():
    for text in ("karşılaştırınız", "KARŞILAŞTIRINIZ", "karsilastiriniz", "KARSILASTIRINIZ"):
        assert any("a comparison" in each for each in ask(text).reasons)


def test_every_cue_is_written_as_it_is_looked_for():
    entries = [*_INDEX.words, *(each for starts in _INDEX.beginnings.values() for each, _ in starts)]
    entries += [phrase.strip() for found in _INDEX.phrases.values() for phrase, _ in found]
    assert all(each.isascii() and each == each.lower() and each for each in entries)
    assert all(len(start) == 4 for start in _INDEX.beginnings)
    assert count_cues(["karsilastiriniz"])[Cue.REASONS] == 1


def evaluate():
    spec = importlib.util.spec_from_file_location("evaluate", ROOT / "benchmarks" / "routing" / "evaluate.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_on_recorded_conversations_it_was_not_trained_on_it_is_far_from_a_coin():
    if not DATA.exists():
        pytest.skip("routing-eval: ../shared is not present")
    rows = [row for row in evaluate().load(DATA) if row["benchmark"] == "mt-bench"]
    items = [(ask(row["prompt"]).points, row["weak"], row["strong"]) for row in rows]
    assert evaluate().measures(items)["APGR"] > 0.6


def everyday():
    spec = importlib.util.spec_from_file_location("everyday", ROOT / "benchmarks" / "routing" / "everyday.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize(("language", "before_training"), [("tr", 0.927), ("en", 0.970)])
def test_everyday_questions_are_in_no_worse_an_order_than_before_weights_were_trained(language, before_training):
    assert everyday().report()[language]["ordered"] >= before_training


def test_of_everyday_questions_the_kind_of_work_is_told():
    # Of 72 of these nothing was known when the words were listed: 61 were told then. Now all words may be of theirs.
    asked = sum(map(len, everyday().KINDS.values()))
    assert len(everyday().mistaken()) <= 0.07 * asked


@pytest.mark.parametrize("language", ["tr", "en"])
def test_the_language_of_everyday_questions_is_told_and_never_mistaken_for_the_other(language):
    questions = [*everyday().EASY[language], *everyday().HARD[language]]
    told = [ask(each).language for each in questions]
    assert set(told) <= {language, ""}
    assert told.count(language) >= 0.95 * len(told)


@pytest.mark.parametrize(
    ("text", "work"),
    [
        ("Write a Python function that reverses a list", "code"),
        ("Prove that the square root of 2 is irrational", "reasoning"),
        ("Ali'nin 5 elması var, 3 tanesini verdi, kalanların yarısını sattı. Kaç elması kaldı?", "reasoning"),
        ("Metindeki isimleri ayıkla: Ayşe ile Mehmet dün geldi", "extraction"),
        ("Şu metni özetle: bugün hava güzel", "summary"),
        ("Classify the sentiment: I love it", "classification"),
        ("Bunu İngilizceye çevir: günaydın", "translation"),
        ("Split this text into chunks for retrieval", "rag"),
        ("Rephrase this politely: no", "rewriting"),
        ("Sonbahar şiiri yaz", "creative"),
        ("merhaba", "small talk"),
        ("capital of France", "question"),
    ],
)
def test_the_kind_of_work_is_named(text, work):
    assert ask(text).work == work


EXAM = "{}\nA. one\nB. two\nC. three\nD. four\nAnswer:"


def test_the_words_of_a_question_count_only_where_such_questions_were_trained_on():
    judged = [ask(EXAM.format(each)) for each in ("Which organ pumps blood?", "Which eigenvalue is degenerate?")]
    assert judged[0].points != judged[1].points
    assert all(any(reason.startswith("what it is about") for reason in each.reasons) for each in judged)
    assert not any(reason.startswith("what it is about") for reason in ask("Which organ pumps blood?").reasons)


RIGHT = "He has 3 * 4 = <<3*4=12>>12 apples.\nHe sells 12 - 5 = <<12-5=7>>7 of them.\n#### 7"
QUESTION = "Ali has 3 boxes of 4 apples each and keeps 5. How many apples does he sell?"


@pytest.mark.parametrize(
    "worse",
    [
        RIGHT.replace("12-5=7", "12-5=8").replace("12 - 5 = <<", "12 - 5 = 8 <<"),
        RIGHT.partition("####")[0].rstrip("\n.") + " and then",
        RIGHT.replace("#### 7", "#### 7.25"),
    ],
    ids=["a sum that does not come out", "no result", "a fraction of an apple"],
)
def test_an_answer_with_a_fault_is_doubted_more(worse):
    assert doubt_of(QUESTION, worse).points > doubt_of(QUESTION, RIGHT).points


SIGNED = tuple(ANSWER)


@pytest.mark.parametrize(
    ("question", "answer", "left_out"),
    [
        ("Ann has 5 red and 7 blue pens and loses 2.", "5 + 7 = 12\n12 - 2 = 10", 0),
        ("Ann has 5 red and 7 blue pens and loses 2.", "She loses 2.\n5 + 7 = 12", 1),
        ("Ann has 5 red and 7 blue pens and loses 2.", "Ten.", 3),
    ],
)
def test_numbers_of_the_question_that_no_sum_reckons_with_are_seen(question, answer, left_out):
    assert answer_of(question, answer)[SIGNED.index("not_reckoned")] == left_out


@pytest.mark.parametrize(
    "question", ["Two years ago Ann was 7.", "Ali 12 yaşında.", "Üç yıl önce kaçtı?", "He is OLDER."]
)
def test_ages_and_times_past_are_seen_in_both_languages(question):
    assert answer_of(question, "")[SIGNED.index("ages")] == 1


@settings(max_examples=100)
@given(st.text(), st.text())
def test_any_answer_to_any_question_is_doubted_by_a_finite_number_and_always_the_same(question, answer):
    doubt = doubt_of(question, answer)
    assert math.isfinite(doubt.points)
    assert doubt == doubt_of(question, answer)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("unit", ["1+", "(", "1=", "1,000", "x=", "9" * 400, "answer ", "#### ", "1/0=1 "])
def test_a_hostile_answer_costs_no_more_than_its_length(unit):
    for _ in range(5):
        assert math.isfinite(doubt_of(unit * 10_000, unit * 10_000).points)
