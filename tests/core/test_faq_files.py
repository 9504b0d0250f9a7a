"""Files of curated answers: three formats for the same entries, and every mistake told with its line."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.faq import FaqEntry, FaqError
from orchestrator.core.faq_files import parse_faq, render_faq

GOOD = "- questions: [a]\n  answer: b\n  language: en\n"
FULL = FaqEntry(
    ("hız limiti", 'what, "then"?'), "50\nkm/h: evet", "tr", "law", ("x", "y"), date(2026, 1, 1), date(2026, 12, 31),
    "f:1", "Ayşe", False,
)  # fmt: skip
ROW = "questions,answer,language\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1", "f.yaml: a list of entries is expected"),
        ("", "f.yaml: a list of entries is expected"),
        ("- [", "f.yaml:2: cannot be read as YAML"),
        ("- x", "f.yaml:1: entry 1: fields are expected"),
        (GOOD + "- questions: [c]\n  language: en\n", "f.yaml:4: entry 2, answer: missing"),
        (GOOD + "- answer: c\n  language: en\n", "f.yaml:4: entry 2, questions: a list of texts is expected"),
        (GOOD + "  questons: [x]\n", "f.yaml:4: entry 1, questons: no such field"),
        (
            GOOD.replace("answer: b", "answer: 112"),
            "f.yaml:2: entry 1, answer: 112 is not a text here; put it in quotes",
        ),
        (GOOD.replace("[a]", "[no]"), "f.yaml:1: entry 1, questions: no is not a text here"),
        (GOOD.replace("[a]", "\n    - a\n    - 2026-01-01"), "f.yaml:3: entry 1, questions: 2026-01-01 is not a text"),
        (GOOD.replace("[a]", "[]"), "f.yaml:1: entry 1, questions: at least one is needed"),
        (GOOD.replace("[a]", "['?']"), "f.yaml:1: entry 1, questions: '?' has no word in it"),
        (GOOD.replace("[a]", f"[{'a' * 501}]"), "f.yaml:1: entry 1, questions: longer than 500 letters"),
        (GOOD.replace("answer: b", "answer: ' '"), "f.yaml:2: entry 1, answer: empty"),
        (GOOD.replace("answer: b", "answer:"), "f.yaml:2: entry 1, answer: None is not a text here"),
        (GOOD.replace("en", "de"), "f.yaml:3: entry 1, language: 'de' is not one of tr, en"),
        (GOOD + "  tags: x\n", "f.yaml:4: entry 1, tags: a list of texts is expected"),
        (GOOD + "  valid_from: soon\n", "f.yaml:4: entry 1, valid_from: a day is expected, like 2026-01-31"),
        (GOOD + "  valid_from: 2026-01-01 10:00:00\n", "f.yaml:4: entry 1, valid_from: a day is expected"),
        (GOOD + "  valid_from: 2026-02-30\n", "f.yaml:4: entry 1, valid_from: a day is expected"),
        (
            GOOD + "  valid_from: 2026-02-01\n  valid_until: 2026-01-01\n",
            "f.yaml:5: entry 1, valid_until: before valid_from",
        ),
        (GOOD + "  paraphrases: maybe\n", "f.yaml:4: entry 1, paraphrases: true or false is expected"),
        (GOOD + "  answer: c\n", "f.yaml:4: entry 1: a field is given twice"),
        ("[" * 5000, "f.yaml"),
        ("- !!python/object/apply:os.getcwd []", "f.yaml:1: entry 1: fields are expected"),
    ],
)
def test_a_wrong_yaml_file_is_refused_with_its_line_the_entry_and_the_field(text, words):
    with pytest.raises(FaqError) as caught:
        parse_faq(text, "f.yaml")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "f.csv:1: the first row names the columns"),
        ("question,answer\n", "f.csv:1: the first row names the columns"),
        (ROW.replace("language", "answer"), "f.csv:1: a column is named twice"),
        (ROW + "a,b\n", "f.csv:2: entry 1: 2 cells, but 3 columns"),
        (ROW + '"a\nb",c,en\nd,,en\n', "f.csv:4: entry 2, answer: missing"),
        (ROW + "a,b,de\n", "f.csv:2: entry 1, language: 'de' is not one of"),
        (ROW + 'a,"b,en\n', "cannot be read as CSV"),
        (ROW.replace("language", "language,tag") + "a,b,en,c\n", "f.csv:2: entry 1, tag: no such field"),
    ],
)
def test_a_wrong_csv_file_is_refused_with_its_line(text, words):
    with pytest.raises(FaqError) as caught:
        parse_faq(text, "f.csv")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n{", "f.jsonl:2: cannot be read as JSON"),
        ("[]", "f.jsonl:1: entry 1: an object is expected"),
        ('{"answer": "a", "answer": "b"}', "f.jsonl:1: cannot be read as JSON: a field is given twice"),
        ('{"questions": ["a"], "answer": 5, "language": "en"}', "f.jsonl:1: entry 1, answer: 5 is not a text here"),
        ('{"questions": "a", "answer": "b", "language": "en"}', "f.jsonl:1: entry 1, questions: a list of texts"),
    ],
)
def test_a_wrong_jsonl_file_is_refused_with_its_line(text, words):
    with pytest.raises(FaqError) as caught:
        parse_faq(text, "f.jsonl")
    assert words in str(caught.value)


def test_all_mistakes_of_a_file_are_told_at_once_but_no_endless_list():
    with pytest.raises(FaqError) as caught:
        parse_faq((GOOD + "  x: 1\n") * 30, "f.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[1].startswith("f.yaml:8: entry 2, x: ")


def test_a_file_of_no_known_kind_is_refused():
    with pytest.raises(FaqError, match=r"f\.txt: its name ends in none of \.yaml"):
        parse_faq("", "f.txt")


@pytest.mark.parametrize("wanted", ["yaml", "csv", "jsonl"])
def test_what_is_written_is_read_as_the_same_entries(wanted):
    plain = FaqEntry(("no", "112", "2026-01-01"), "yes", "en")
    read = parse_faq(render_faq([FULL, plain], wanted), f"f.{wanted}")
    for one, other in zip(read, [FULL, plain], strict=True):
        assert same(one) == same(other)


# Within a cell of CSV a question is a line; elsewhere anything goes that has a letter or a digit in it.
WORDS = st.from_regex(r"[a-zçğıöşü0-9\"\'#:,\\{}\[\]&*!|>%@`~-]{1,12}", fullmatch=True).map(lambda text: f"a{text}a")
ENTRIES = st.builds(
    FaqEntry,
    questions=st.lists(WORDS, min_size=1, max_size=3).map(tuple),
    answer=st.text(min_size=1).map(str.strip).filter(lambda text: text.isprintable() and text != ""),
    language=st.sampled_from(["tr", "en"]),
    tags=st.lists(WORDS, max_size=2).map(tuple),
)


@given(st.lists(ENTRIES, max_size=4), st.sampled_from(["yaml", "csv", "jsonl"]))
def test_any_entries_come_back_from_any_format(entries, wanted):
    text = render_faq(entries, wanted)
    if entries or wanted != "yaml":
        assert list(map(same, parse_faq(text, f"f.{wanted}"))) == list(map(same, entries))


def same(entry: FaqEntry) -> tuple[object, ...]:
    days = (entry.valid_from, entry.valid_until)
    return (
        entry.questions, entry.answer, entry.language, entry.source, entry.author, entry.tags, days, entry.paraphrases,
    )  # fmt: skip
