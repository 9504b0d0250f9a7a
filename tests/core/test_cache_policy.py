"""What a kept answer may be used for, what callers' Cache-Control says, which answers are kept; entries in bytes."""

from __future__ import annotations

import unicodedata

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.core.cache_entry import About, Entry, about_from, about_text, entry_bytes, entry_from, tags_from
from orchestrator.core.cache_policy import NO_WISH, Freshness, Standing, Wish, is_worth_keeping, standing, wish_from
from orchestrator.core.cachekey import answer_key, normalise, receipt, target_of
from orchestrator.core.dialects.parse import parse_call
from orchestrator.core.model import Answer, Call, Endpoint, Finish, ToolCall

SECRET = b"0123456789abcdef"
ANSWER = Answer("120 km/h", prompt_tokens=7, completion_tokens=3)
ONE_HOUR = Freshness(3600, while_revalidate_s=60, if_error_s=600)
Ages = st.floats(0, 1e6)
Names = st.text("abcçğışöü :.-", min_size=1, max_size=9)


def chat(text: str, **more: object) -> Call:
    return parse_call(
        Endpoint.OLLAMA_CHAT, orjson.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **more})
    )


# --- Cache-Control ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "wish"),
    [
        ("", NO_WISH),
        ("no-store", Wish(no_store=True)),
        ("No-Cache", Wish(no_cache=True)),
        ("max-age=60", Wish(max_age_s=60)),
        ('max-age="60" , no-store', Wish(no_store=True, max_age_s=60)),
        ("max-age=-1", NO_WISH),
        ("max-age=soon", NO_WISH),
        ("max-age=١٢", NO_WISH),
        ("only-if-cached, s-maxage=3,,=", NO_WISH),
    ],
)
def test_a_callers_cache_control_is_read_as_far_as_it_is_known(header, wish):
    assert wish_from(header) == wish


@given(st.text())
def test_no_cache_control_can_stop_a_call(header):
    assert isinstance(wish_from(header), Wish)


# --- ages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_s", "wish", "stands"),
    [
        (0, NO_WISH, Standing.FRESH),
        (3600, NO_WISH, Standing.FRESH),
        (3601, NO_WISH, Standing.STALE),
        (3661, NO_WISH, Standing.SPARE),
        (4201, NO_WISH, Standing.OLD),
        (100, Wish(max_age_s=100), Standing.FRESH),
        (101, Wish(max_age_s=100), Standing.SPARE),
        (3630, Wish(max_age_s=100), Standing.SPARE),
        (5000, Wish(max_age_s=9999), Standing.OLD),
    ],
)
def test_an_answer_is_fresh_then_stale_then_a_spare_then_too_old(age_s, wish, stands):
    entry = ONE_HOUR.entry(ANSWER, 1000.0, chance=0.0)
    assert standing(entry, ONE_HOUR, wish, 1000.0 + age_s) is stands


@given(st.floats(0, 1), st.floats(0, 0.9), Ages, Ages, Ages)
def test_jitter_only_takes_off_and_redis_keeps_an_answer_for_as_long_as_any_policy_gives_it(
    chance, jitter, while_s, error_s, age_s
):
    freshness = Freshness(3600, jitter, while_s, error_s)
    entry = freshness.entry(ANSWER, 0.0, chance)
    assert 360 - 1e-6 <= entry.fresh_until_s <= 3600
    if standing(entry, freshness, NO_WISH, age_s) is not Standing.OLD:
        assert age_s <= entry.ends_s


@given(Ages, Ages)
def test_an_answer_never_gets_fresher_with_time(one, other):
    entry = ONE_HOUR.entry(ANSWER, 0.0, chance=0.0)
    order = list(Standing)
    young, old = (order.index(standing(entry, ONE_HOUR, NO_WISH, at)) for at in sorted((one, other)))
    assert young <= old


# --- what is kept -----------------------------------------------------------------------------------------------------

TOOL = Answer("", Finish.TOOL_CALLS, "", (ToolCall("1", "send", {}),))


@pytest.mark.parametrize(
    ("answer", "options", "tool_calls", "is_kept"),
    [
        (ANSWER, {}, False, True),
        (Answer(" \n"), {}, False, False),
        (Answer("a", Finish.LENGTH, completion_tokens=3), {}, False, False),
        (Answer("a", Finish.LENGTH, completion_tokens=3), {"num_predict": 3}, False, True),
        (Answer("a", Finish.LENGTH, completion_tokens=3), {"num_predict": 4}, False, False),
        (Answer("a", Finish.LENGTH, completion_tokens=3), {"num_predict": -1}, False, False),
        (TOOL, {}, False, False),
        (TOOL, {}, True, True),
    ],
)
def test_only_an_answer_that_is_the_one_asked_for_is_kept(answer, options, tool_calls, is_kept):
    assert is_worth_keeping(chat("hi", options=options), answer, tool_calls=tool_calls) is is_kept


def test_a_limit_counts_in_every_dialect_that_has_one():
    cut = Answer("a", Finish.LENGTH, completion_tokens=3)
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    for endpoint in (Endpoint.OPENAI_CHAT, Endpoint.ANTHROPIC_MESSAGES):
        assert is_worth_keeping(parse_call(endpoint, orjson.dumps(body)), cut, tool_calls=False)


# --- entries ----------------------------------------------------------------------------------------------------------


@given(st.text(), st.sampled_from([*Finish]), st.text(), st.dictionaries(Names, st.integers(0, 9)), Ages)
def test_an_entry_comes_back_as_it_was(text, finish, thinking, arguments, at_s):
    entry = Entry(Answer(text, finish, thinking, (ToolCall("1", "f", arguments),), 1, 2), at_s, at_s + 1, at_s + 2)
    assert entry_from(entry_bytes(entry)) == entry


@pytest.mark.parametrize("kept", [b"", b"{}", b"[]", b"\x01\x02", b'{"answer": {}}', b'{"text": "of version 1"}'])
def test_what_is_no_entry_is_a_value_error(kept):
    with pytest.raises(ValueError, match=r"Input|input|unexpected|answer"):
        entry_from(kept)


def test_what_is_told_of_an_entry_comes_back_as_it_was():
    about = About("auto", True, "ayşe", ("law", "2026"))
    assert about_from(about_text(about)) == about


def test_tags_are_few_short_and_printable():
    assert tags_from(" law, 2026 ,,law,\x00") == ("law", "2026")
    assert len(tags_from(",".join(map(str, range(99))))) == 8
    assert tags_from("x" * 99) == ("x" * 64,)
    assert tags_from("") == ()


# --- keys -------------------------------------------------------------------------------------------------------------


def key(text: str, tenant: str = "a", target: str = "auto") -> str:
    return answer_key(tenant=tenant, target=target, call=chat(text), secret=SECRET)


Turkish = st.text("abcçdefgğhıijklmnoöprsştuüvyzABCÇDEFGĞHIİJKLMNOÖPRSŞTUÜVYZ 0123456789?!.,'\u0307\u0327", max_size=40)


@given(Turkish, Turkish)
def test_texts_share_a_key_only_if_a_reader_sees_the_same(one, other):
    assert (key(one) == key(other)) == (normalise(one) == normalise(other))


@given(Turkish)
def test_composed_and_taken_apart_letters_share_a_key(text):
    assert key(unicodedata.normalize("NFD", text)) == key(unicodedata.normalize("NFC", text)) == key(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [("SINIR", "sınır"), ("SINIR", "sinir"), ("İstanbul", "istanbul"), ("ısı", "isi"), ("I", "İ"), ("ı", "i")],
)
def test_an_answer_made_for_one_casing_of_the_turkish_i_is_not_given_for_another(one, other):
    assert key(one) != key(other)


@given(Turkish, Names, Names)
def test_no_question_has_the_same_key_for_two_tenants_nor_for_two_targets(text, one, other):
    assume(one != other)
    assert key(text, tenant=one) != key(text, tenant=other)
    assert key(text, target=one) != key(text, target=other)


def test_a_model_pulled_anew_has_other_keys_and_so_has_each_of_a_routes_models():
    targets = {target_of("auto", each) for each in ((), ("", ""), ("1", ""), ("", "1"), ("1", "2"), ("2", "1"))}
    assert len(targets) == 6


@given(Names, Names, Names)
def test_a_receipt_is_of_one_tenant_and_one_key(tenant, one, other):
    assume(one != other)
    proof = receipt(tenant=tenant, key=one, secret=SECRET)
    assert proof != receipt(tenant=tenant, key=other, secret=SECRET)
    assert proof != receipt(tenant=tenant + "x", key=one, secret=SECRET)
    assert proof != receipt(tenant=tenant, key=one, secret=b"another secret..")
