"""Private matter is found however it is written, and little else is taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.privacy.__main__ import HELD_BACK, STRUCTURED, judged, labelled
from orchestrator.core.privacy import Found, Kind, Privacy, classify, find, strictest


def kinds(text: str) -> list[Kind]:
    return [each.kind for each in find(text)]


def test_the_labelled_texts_give_away_98_of_100_structured_kinds_and_few_others_are_taken_for_one() -> None:
    scores, mistakes = judged(labelled())
    for kind in STRUCTURED:
        assert scores[kind].recall >= 0.98, mistakes
    assert min(each.precision for each in scores.values()) >= 0.95, mistakes


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("kart {}", "4111 1111 1111 1111"),
        ("TC {}", "10000000146"),
        ("iban {}", "TR33 0006 1005 1978 6457 8413 26"),
    ],
)
def test_one_wrong_digit_and_the_number_is_nobodys(text: str, private: str) -> None:
    assert len(find(text.format(private))) == 1
    digits = [place for place, letter in enumerate(private) if letter.isdigit()]
    for place in digits[4:]:
        other = str((int(private[place]) + 1) % 10)
        assert not find(text.format(private[:place] + other + private[place + 1 :]))


@pytest.mark.parametrize(
    "written",
    [
        "4111\u200b1111\u200b1111\u200b1111",  # blanks without a width
        "4111\u00a01111\u20091111\u202f1111",  # as a word processor parts them
        "4111\u20111111\u20131111\u22121111",
        "４１１１ １１１１ １１１１ １１１１",
        "٤١١١ ١١١١ ١١١١ ١١١١",
        "4111 - 1111 - 1111 - 1111",
        "4111 – 1111 – 1111 – 1111",
    ],
)
def test_digits_blanks_and_dashes_of_other_alphabets_hide_nothing(written: str) -> None:
    text = f"kart «{written}» dir"
    assert find(text) == (Found(Kind.CARD, 6, 6 + len(written)),)


def test_a_number_is_one_kind_alone() -> None:
    assert kinds("TR330006100519786457841326") == [Kind.IBAN]
    assert kinds("https://ali:gizli123@example.com/a") == [Kind.SECRET]


def test_what_is_found_is_the_private_matter_and_not_what_stands_around_it() -> None:
    text = "Ali (ali@example.com, 0532 123 45 67) parolam: Kedi2024! dedi."
    told = [(each.kind, text[each.start : each.end]) for each in find(text)]
    assert told == [(Kind.EMAIL, "ali@example.com"), (Kind.PHONE, "0532 123 45 67"), (Kind.SECRET, "Kedi2024!")]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("curl -H 'Authorization: Bearer s3kAb8dZqTn41xKw' https://x", "s3kAb8dZqTn41xKw"),
        ("authorization: bearer s3kA.b8dZ-qTn4_1xKw==", "s3kA.b8dZ-qTn4_1xKw=="),
        ("Authorization: Basic YWxpOmdpemxp", "YWxpOmdpemxp"),
    ],
)
def test_what_a_request_is_let_in_by_is_a_secret(text: str, secret: str) -> None:
    (found,) = find(text)
    assert (found.kind, text[found.start : found.end]) == (Kind.SECRET, secret)


@pytest.mark.parametrize("text", ["Use bearer authentication-schemes here", "a bearer of 12 letters", "Basic English"])
def test_who_bears_something_else_has_no_secret(text: str) -> None:
    assert not find(text)


def test_the_strictest_class_wins_and_a_kind_without_one_stays_in_the_house() -> None:
    found = find("ali@example.com 10000000146")
    assert classify(()) is Privacy.PUBLIC
    assert classify(found) is Privacy.LOCAL
    assert classify(found[:1]) is Privacy.INTERNAL
    assert classify(found, {Kind.EMAIL: Privacy.PUBLIC}) is Privacy.LOCAL
    assert classify(found, {Kind.EMAIL: Privacy.PUBLIC, Kind.IDENTITY: Privacy.PUBLIC}) is Privacy.PUBLIC
    assert strictest([Privacy.INTERNAL, Privacy.LOCAL, Privacy.PUBLIC]) is Privacy.LOCAL


PIECES = (
    "10000000146",
    "4111 1111 1111 1111",
    "a@b.co",
    "0532 123 45 67",
    "parola: x9x9",
    "\u200b",
    "İ",
    "ß",
    "ﬀ",
    "\n",
    " ",
    ",",
)


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join))
def test_what_is_found_stands_in_the_text_in_order_and_without_overlap(text: str) -> None:
    found = find(text)
    ends = 0
    for each in found:
        assert ends <= each.start < each.end <= len(text)
        ends = each.end


@given(
    st.sampled_from(
        [*(letter * 20_000 for letter in "a1.@-( +İ"), "a.@" * 9000, "1 " * 9000, "tel " * 5000, "TR1 " * 5000]
    )
)
def test_a_text_made_to_be_slow_is_read_to_its_end(text: str) -> None:
    assert isinstance(find(text), tuple)


def test_texts_that_nothing_was_tuned_on_give_away_nearly_as_many() -> None:
    scores, mistakes = judged(labelled(HELD_BACK))
    found, missed = (sum(getattr(scores[kind], name) for kind in STRUCTURED) for name in ("found", "missed"))
    assert found / (found + missed) >= 0.97, mistakes
    assert min(each.precision for each in scores.values()) >= 0.9, mistakes
