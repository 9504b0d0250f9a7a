"""A paraphrase of a curated question is found; what only looks like one is not, however alike the letters are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cache.paraphrase import PRECISION, RECALL, Pair, chosen, halves, is_answered, judge, score, together
from orchestrator.core.paraphrase import endings
from orchestrator.core.paraphrase.index import LIKENESS_MIN, Paraphrases
from orchestrator.core.paraphrase.reading import read


def is_taken(curated: str, asked: str, language: str) -> bool:
    return is_answered(judge(Pair(curated, asked, language, True, "")), LIKENESS_MIN)


TRAPS = [
    ("tr", "bu ilaç güvenli mi", "bu ilaç güvenli değil mi"),
    ("tr", "bu ilaç güvenli mi", "bu ilaç güvensiz mi"),
    ("tr", "şehir içi hız limiti nedir", "şehir dışı hız limiti nedir"),
    ("tr", "şehir içi hız limiti nedir", "şehirler arası hız limiti nedir"),
    ("tr", "şehir içi hız limiti nedir", "otoyol hız limiti nedir"),
    ("tr", "50 cc motor kullanma yaşı kaç", "90 cc motor kullanma yaşı kaç"),
    ("tr", "hız limiti 50 mi", "hız limiti 90 mı"),
    ("tr", "1 mil kaç km", "1 km kaç mil"),
    ("tr", "1 mil kaç km", "2 mil kaç km"),
    ("tr", "Ankara'dan İzmir'e bilet kaç lira", "İzmir'den Ankara'ya bilet kaç lira"),
    ("tr", "okuldan nasıl gidilir", "okula nasıl gidilir"),
    ("tr", "bankadan para nasıl gönderilir", "bankaya para nasıl gönderilir"),
    ("tr", "bankadan para nasıl gönderilmez", "bankadan para nasıl gönderilir"),
    ("tr", "çocuğumu okula nasıl yazdırırım", "çocuğumu okula nasıl yazdırmam"),
    ("tr", "sözleşme feshedilebilir mi", "sözleşme feshedilemez mi"),
    ("tr", "araç kiralamak için ehliyet gerekli mi", "araç kiralamak için ehliyet gereksiz mi"),
    ("tr", "dolar kaç lira", "euro kaç lira"),
    ("tr", "5 km kaç mil", "5 mil kaç km"),
    ("tr", "100 TL kaç dolar", "100 dolar kaç TL"),
    ("tr", "şeker hastası bal yiyebilir mi", "şeker hastası bal yiyemez mi"),
    ("tr", "kitap iade edilir mi", "kitap iade edilmez mi"),
    ("en", "how do I hide files", "how do I unhide files"),
    ("en", "is smoking allowed in the garden", "is smoking forbidden in the garden"),
    ("en", "can I pay after delivery", "can I pay before delivery"),
    ("en", "how do I upgrade from 10 to 11", "how do I upgrade from 11 to 10"),
    ("en", "are children over 12 admitted", "are children under 12 admitted"),
    ("en", "how do I become a member", "how do I become a non member"),
    ("en", "who can approve leave", "who cannot approve leave"),
    ("en", "can I have pets", "can I have no pets"),
    ("en", "what is 10% of 50", "what is 10% of 60"),
    ("en", "convert 5 kg to pounds", "convert 5 pounds to kg"),
    ("en", "did the meeting start at 10:30", "did the meeting start at 10:45"),
    ("tr", "okul kaydı için hangi belgeler gerekli", "okuldan kayıt için hangi belgeler gerekli"),
    ("tr", "ruhsat nasıl yenilenir", "ruhsat nasıl yenilenmez"),
    ("tr", "ruhsat ne zaman yenilenir", "ruhsat nasıl yenilenir"),
    ("tr", "ruhsat yenilenebilir mi", "ruhsat yenilenmeli mi"),
    ("tr", "kart nasıl açılır", "kart nasıl kapatılır"),
    ("tr", "en fazla kaç kitap alınır", "en az kaç kitap alınır"),
    ("tr", "29 Ekim tatil mi", "30 Ağustos tatil mi"),
    ("tr", "kayıt belgesi", "kağıt belgesi"),
    ("tr", "sınır vergisi nedir", "sinir hastalığı nedir"),
    ("tr", "iphone 14 kaç lira", "iphone 15 kaç lira"),
    ("tr", "hız limiti nedir", "otoyol hız limiti nedir"),
    ("tr", "otoyol hız limiti nedir", "hız limiti nedir"),
    ("tr", "sınav kaç saat sürer", "sınav saat kaçta"),
    ("en", "is it safe to drink tap water", "is it not safe to drink tap water"),
    ("en", "is it safe to drink tap water", "is it unsafe to drink tap water"),
    ("en", "is it safe to drink tap water", "is it safe to drink rain water"),
    ("en", "what is the speed limit in town", "what is the speed limit out of town"),
    ("en", "is the limit 50", "is the limit 90"),
    ("en", "what is 2+2", "what is 2+3"),
    ("en", "how do I turn the alarm on", "how do I turn the alarm off"),
    ("en", "can a tenant sue a landlord", "can a landlord sue a tenant"),
    ("en", "is a lion stronger than a tiger", "is a tiger stronger than a lion"),
    ("en", "flights from Rome to Paris", "flights from Paris to Rome"),
    ("en", "how many grams are in an ounce", "how many ounces are in a gram"),
    ("en", "can I import data", "can I export data"),
    ("en", "may I bring a guest", "must I bring a guest"),
    ("en", "when may I bring a guest", "where may I bring a guest"),
    ("en", "how do I enable IPv6", "how do I enable IPv4"),
    ("en", "does insurance cover dental care", "doesn't insurance cover dental care"),
    ("en", "can I travel with a visa", "can I travel without a visa"),
    ("en", "what is a visa", "how much is a visa"),
    ("en", "what letters are in the alphabet", "how many letters are in the alphabet"),
    ("en", "is the shop open on Monday", "is the shop open on Sunday"),
    ("en", "what is 5! worth", "what is 5 worth"),
    ("en", "is -5 an integer", "is 5 an integer"),
]


@pytest.mark.parametrize(("language", "curated", "asked"), TRAPS)
def test_what_only_looks_alike_is_not_taken_for_a_paraphrase_whichever_of_the_two_is_curated(language, curated, asked):
    assert not is_taken(curated, asked, language)
    assert not is_taken(asked, curated, language)


@pytest.mark.parametrize(
    ("language", "curated", "asked"),
    [
        ("tr", "şehir içi hız limiti nedir", "Merhaba, şehir içindeki hız sınırını söyler misiniz?"),
        ("tr", "şehir içi hız limiti nedir", "SEHIR ICI HIZ LIMITI KAC"),
        ("tr", "otoyol hız limiti", "otoyollarda hız limiti kaç km"),
        ("tr", "pasaport nasıl yenilenir", "pasaportumu nasıl yenilerim"),
        ("tr", "pasaport nasıl yenilenir", "nasıl pasaport yenileyebilirim acaba"),
        ("tr", "sınav sonuçları ne zaman açıklanır", "sınav sonuçlarını ne zaman açıklıyorlar"),
        ("tr", "1 inç kaç cm", "bir inç kaç santimetre eder"),
        ("tr", "laboratuvar nerede", "laboratuar nerede"),
        ("en", "what is the motorway speed limit", "Could you tell me the speed limit on motorways, please?"),
        ("en", "how do I reset my password", "how can passwords be reset"),
        ("en", "how many centimetres are in an inch", "1 inch in cm"),
        ("en", "is the clinic open on Saturday", "on Saturdays, is the clinic open?"),
        ("en", "how do I turn off notifications", "how to switch off notifications"),
    ],
)  # fmt: skip
def test_endings_order_frames_and_words_of_one_meaning_make_no_other_question(language, curated, asked):
    assert is_taken(curated, asked, language)


def test_the_half_that_chose_nothing_holds_the_precision_and_the_recall_that_is_said():
    first, second = halves()
    assert len(first) + len(second) >= 400
    kept = score([(pair, judge(pair)) for pair in second], LIKENESS_MIN)
    assert kept.precision >= PRECISION
    assert kept.recall >= RECALL
    assert together(second, LIKENESS_MIN).precision >= PRECISION


def test_the_threshold_in_use_is_the_one_that_the_first_half_chooses():
    first, _ = halves()
    assert chosen([(pair, judge(pair)) for pair in first]) == LIKENESS_MIN


def test_likeness_without_the_guard_is_precise_at_no_threshold():
    first, _ = halves()
    assert chosen([(pair, judge(pair)) for pair in first], is_guarded=False) is None


@pytest.mark.parametrize(("language", "curated", "asked"), TRAPS[:30:3])
def test_each_refusal_says_why(language, curated, asked):
    assert judge(Pair(curated, asked, language, False, "")).objections


@pytest.mark.parametrize(
    ("word", "place"),
    [("yapılmaz", 5), ("gelmiyor", 3), ("açılmadı", 4), ("şifresiz", 5), ("takmamanın", 3), ("bağlanamıyorum", 7)],
)
def test_a_negation_in_an_ending_is_seen(word, place):
    assert endings.negation(endings.without_marks(word)) == place


@pytest.mark.parametrize(
    "word", ["sinemada", "deniz", "yapıyorsunuz", "ödeme", "hızlı", "temmuz", "domates", "kampanya"]
)
def test_what_only_ends_like_a_negation_is_none(word):
    assert endings.negation(endings.without_marks(word)) is None


@pytest.mark.parametrize(
    ("typed", "meant", "is_one"),
    [
        ("appointmnet", "appointment", True),
        ("certificcate", "certificate", True),
        ("certifcate", "certificate", True),
        ("gidilmiyor", "gidiliyor", False),  # a negation
        ("export", "import", False),
        ("kağıtlar", "kayıtlar", False),
    ],
)
def test_a_slip_of_the_fingers_is_one_letter_inside_a_long_word(typed, meant, is_one):
    assert endings.is_slip(typed, meant) == is_one


def test_a_question_is_found_among_ten_thousand_that_share_its_words():
    index = Paraphrases.of(((n, f"{n} numaralı sınıf hangi katta") for n in range(10_000)), "tr")
    (first, *_) = index.near("acaba 4711 numaralı sınıf hangi kattadır", lambda entry: True)
    assert (first.entry, first.compared.objections) == (4711, ())
    near = index.near("sınıf hangi katta", lambda entry: True)
    assert near
    assert all(each.compared.objections for each in near)


@given(st.text(max_size=80).map(str.lower), st.sampled_from(["tr", "en"]))
def test_any_text_can_be_read_and_is_a_paraphrase_of_itself_or_of_nothing(text, language):
    assert read(text, language) == read(text, language)
    judged = judge(Pair(text, text, language, True, ""))
    assert judged.likeness == 0 or judged.likeness > 0.9
