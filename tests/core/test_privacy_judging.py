"""A call's class comes from all that is in it, within a bound on the work; the strictest where one cannot tell."""

from __future__ import annotations

import json

import pytest

from orchestrator.core.engine_words import known_words
from orchestrator.core.errors import CallerError, InstanceError
from orchestrator.core.privacy import (
    DEFAULT_CLASSES,
    Discretion,
    Kind,
    Privacy,
    Rules,
    Words,
    WordsError,
    find,
    judge,
    may_leave,
    redacted,
    texts_of,
)

IBAN = "TR33 0006 1005 1978 6457 8413 26"
PLAIN = "Kediler neden mırlar? "


def judged(body: dict[str, object], **more: object) -> Discretion:
    texts = texts_of(body)
    return judge(texts.joined, Rules(**more))  # type: ignore[arg-type]


# --- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "accepted", "may"),
    [
        ("public", "public", True),
        ("public", "internal", True),
        ("internal", "public", False),
        ("internal", "internal", True),
        ("local", "public", False),
        ("local", "internal", False),
        ("local", "local", False),  # whatever somebody writes into the settings
    ],
)
def test_a_text_goes_outside_only_where_its_class_is_accepted_and_a_local_one_never(text, accepted, may):
    assert may_leave(Privacy(text), Privacy(accepted)) is may


def test_the_class_says_what_was_found_and_nothing_of_the_text():
    assert judge(f"{PLAIN} {IBAN}", Rules()) == Discretion(Privacy.LOCAL, "iban")
    assert judge("yaz: ali@example.com, 0532 123 45 67", Rules()) == Discretion(Privacy.INTERNAL, "e-mail and phone")
    assert judge(PLAIN, Rules()) == Discretion(Privacy.PUBLIC, "")
    open_to_all = dict.fromkeys(Kind, Privacy.PUBLIC)
    assert judge(IBAN, Rules(classes=open_to_all)).privacy is Privacy.PUBLIC


def test_every_kind_has_a_class():
    assert DEFAULT_CLASSES.keys() == set(Kind)


# --- the bound on the work -------------------------------------------------------------------------------------------


def test_a_text_that_is_too_long_to_be_searched_stays():
    assert judge(PLAIN * 100, Rules(most_letters=2199)).privacy is Privacy.LOCAL
    assert judge(PLAIN * 100, Rules(most_letters=2200)).privacy is Privacy.PUBLIC


@pytest.mark.parametrize("before", [0, 1, 7150, 7160, 7168, 7180, 8150, 8170, 8185, 8192, 20_000])
def test_private_matter_is_found_wherever_a_long_text_is_cut_to_be_searched(before):
    for private in (IBAN, "10000000146", "ali@example.com", "diagnosed with cancer", "parolam: Kedi2024!"):
        text = ("ve " * 10_000)[:before] + f" {private} " + "ve " * 5000
        assert judge(text, Rules()).privacy is not Privacy.PUBLIC, private


def test_a_text_without_a_blank_is_searched_too():
    text = "x" * 9000 + "=" + "eyJhbGciOiJIUzI1NiJ9.eyJ" + "a" * 300 + "." + "b" * 40 + "=" + "x" * 9000
    assert judge(text, Rules()) == Discretion(Privacy.LOCAL, "secret")


def test_many_findings_cost_what_they_are_many():
    # Each was compared with all before it once: 10,000 took a minute.
    assert len(find("a@b.co 0532 123 45 67\n" * 10_000)) == 20_000


# --- all texts of a call ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": IBAN},
        {"prompt": "Özetle", "suffix": IBAN},
        {"prompt": "Özetle", "system": IBAN},
        {"prompt": "Özetle", "template": f"{{{{ .Prompt }}}} {IBAN}"},
        {"prompt": ["one", IBAN]},
        {"messages": [{"role": "user", "content": IBAN}, {"role": "user", "content": "Sağ ol"}]},
        {"messages": [{"role": "system", "content": IBAN}, {"role": "user", "content": "Merhaba"}]},
        {"messages": [{"role": "assistant", "content": "", "thinking": IBAN}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Bak:"}, {"type": "text", "text": IBAN}]}]},
        {"messages": [{"role": "tool", "tool_call_id": "1", "content": json.dumps({"hesap": IBAN})}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "pay", "arguments": {"to": IBAN}}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": '{"to": "' + IBAN + '"}'}}]}]},
        {"messages": [{"content": [{"type": "tool_result", "content": [{"type": "text", "text": IBAN}]}]}]},
        {"tools": [{"type": "function", "function": {"name": "pay", "description": f"Pays to {IBAN}"}}]},
        {"tools": [{"function": {"parameters": {"properties": {"to": {"enum": [IBAN]}}}}}]},
        {"format": {"properties": {"iban": {"const": IBAN}}}},
        {"response_format": {"json_schema": {"schema": {"examples": [IBAN]}}}},
        {"instructions": IBAN, "input": "Merhaba"},
        {"input": [{"type": "function_call_output", "call_id": "1", "output": IBAN}]},
        {"metadata": {"customer": IBAN}},
        {"user": IBAN},
        {"something_new": {"deep": [[{"down": IBAN}]]}},
        {IBAN: "as a name"},
        {"schema": {IBAN: {"type": "string"}}},
    ],
)  # fmt: skip
def test_a_call_is_searched_wherever_a_text_can_stand_in_it(body):
    assert judged(body) == Discretion(Privacy.LOCAL, "iban")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"metadata": {"tckn": 10000000146}}, "identity number"),
        ({"tool": {"password": "Kedi2024!"}}, "secret"),
        ({"messages": [{"content": '{"mail": "ali\\u0040example.com"}'}]}, "e-mail"),
        ({"messages": [{"content": ' [{"note": "kanser te\\u015fhisi"}]'}]}, "health"),
        ({"messages": [{"content": "şeker hastası".encode().decode() + "yım"}]}, "health"),
        ({"messages": [{"content": "s\u0327eker hastas\u0131y\u0131m"}]}, "health"),  # marks behind their letters
        ({"messages": [{"role": "tool", "content": 'Sonuç: {"kan \\u015fekeri": "yüksek"}'}]}, "health"),
        ({"messages": [{"role": "tool", "content": '{"kan \\u015fekeri": 1}\n{"kan": 2}'}]}, "health"),  # JSON lines
        ({"messages": [{"role": "tool", "content": '{"to": "{\\\\u0022a\\\\u0022: \\\\u015fizofreni"}'}]}, "health"),
        ({"messages": [{"content": "<p>kan &#351;ekeri</p>"}]}, "health"),
        ({"messages": [{"content": "https://example.com/?mail=ali%40example.org&page=2"}]}, "e-mail"),
        ({"messages": [{"content": f"https://example.com/?to={IBAN.replace(' ', '%20')}"}]}, "iban"),
        ({"tool": {"tckn": 10000000146.0}}, "identity number"),
        ({"messages": [{"content": "kart 𝟒𝟏𝟏𝟏 1111 1111 1111"}]}, "card number"),
        ({"messages": [{"content": "tel: \u20680532\u2069 \u2068123\u2069 45 67"}]}, "phone"),
    ],
)
def test_numbers_names_of_fields_and_letters_spelled_as_codes_are_searched(body, kind):
    assert judged(body).why == kind


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "Bu ne?", "images": ["aGVsbG8="]}]},
        {"prompt": "Bu ne?", "images": ["aGVsbG8="]},
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}]}]},
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]},
        {"messages": [{"content": [{"type": "input_audio", "input_audio": {"data": "aGVsbG8=", "format": "wav"}}]}]},
        {"messages": [{"content": [{"type": "file", "file": {"file_id": "file-1"}}]}]},
        {"messages": [{"content": [{"type": "image", "source": {"type": "base64", "data": "aGVsbG8="}}]}]},
        {"messages": [{"content": [{"type": "document", "source": {"type": "base64", "data": "aGVsbG8="}}]}]},
        {"messages": [{"content": [{"type": "what_comes_next_year"}]}]},
        {"messages": [{"content": [{"type": ["text"]}]}]},
        {"messages": [{"content": [{"type": "redacted_thinking", "data": "aGVsbG8="}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]},
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "aGVsbG8="}]},
        {"prompt": "Devam et", "context": [1, 2, 3]},
        {"prompt": [[9906, 1917], [11]]},
        {"prompt": [9906, 1917]},
        {"anything": {"new": "data:video/mp4;base64,aGVsbG8="}},
        {"messages": [{"role": "user", "content": "Bu ne?", "Images": ["aGVsbG8gaGVsbG8g" * 20]}]},
        {"messages": [{"role": "user", "content": "Bu ne?", "audio": {"data": "aGVsbG8gaGVsbG8g" * 20}}]},
        {"documents": ["\n".join(["aGVsbG8gaGVsbG8g" * 4] * 20)]},
    ],
)
def test_what_nobody_here_can_read_is_seen_to_be_there(body):
    assert texts_of(body).has_more


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": f"data:;base64, {IBAN}"}]},
        {"messages": [{"role": "user", "content": f"data:{IBAN};base64,aGVsbG8="}]},
        {"messages": [{"role": "user", "content": f"data:text/plain;base64,{'x' * 5000} {IBAN}"}]},
        {"prompt": "Bu ne?", "images": [IBAN.replace(" ", "")]},
        {"input": [{"type": "reasoning", "encrypted_content": f"{'a' * 5000} {IBAN}"}]},
    ],
)
def test_what_only_says_that_it_is_a_file_is_searched_where_files_may_leave(body):
    assert judged(body) == Discretion(Privacy.LOCAL, "iban")
    assert texts_of(body).has_more


def test_a_file_is_not_searched_letter_by_letter():
    assert len(texts_of({"images": ["aGVs" * 100_000]}).joined) < 100


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Merhaba"}]}], "images": [], "context": []},
        {"tools": [{"type": "function", "function": {"parameters": {"properties": {"n": {"type": "integer"}}}}}]},
        {"messages": [{"role": "user", "content": "data: a text that begins so"}]},
        {"options": {"stop": ["\n"], "temperature": 0.5, "seed": 42}, "logit_bias": {"50256": -100}},
        {"messages": [{"content": [{"type": "thinking", "thinking": "Hm.", "signature": "aGVsbG8g" * 50}]}]},
        {"messages": [{"role": "user", "content": "def f(x):\n    return x\n" * 20}]},
        {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Merhaba"}]}]},
    ],
)  # fmt: skip
def test_a_call_in_words_has_nothing_more(body):
    assert not texts_of(body).has_more
    assert judged(body).privacy is Privacy.PUBLIC


def test_a_body_may_be_as_deep_as_it_likes():
    body: dict[str, object] = {"text": IBAN}
    for _ in range(50_000):
        body = {"in": [body]}
    assert judged(body).privacy is Privacy.LOCAL
    while body:  # taken apart here: freeing it in one go would need a stack as deep
        (inner,) = body.values()
        body = inner[0] if isinstance(inner, list) else {}


# --- words of one's own ----------------------------------------------------------------------------------------------

WORDS = Words(["# projects", "", "Kızılelma", "mavi vatan*", "X-Ray Dosyası", "O'Neill"])


@pytest.mark.parametrize(
    "text",
    [
        "KIZILELMA ne zaman biter?",
        "kizilelma?",
        "(Kızılelma)",
        "Mavi  Vatan'ın bütçesi",
        "mavi-vatandaki gemi",
        "x ray dosyasi nerede",
        "o\u2019neill geldi",
    ],
)
def test_own_words_are_found_in_whatever_case_and_spelling(text):
    assert [each.kind for each in find(text, WORDS)] == [Kind.WORD]
    assert judge(text, Rules(words=WORDS)) == Discretion(Privacy.LOCAL, "word")


@pytest.mark.parametrize("text", ["kızılelmalar", "mavi bir vatan", "ray dosyası", "projects", "kızıl elma"])
def test_other_words_are_none_of_them(text):
    assert not find(text, WORDS)


def test_a_line_that_would_find_everything_is_no_word():
    for line in ("*", "a", "ab*", "a b", "--", "x" * 300):
        with pytest.raises(WordsError, match="line 2"):
            Words(["Kızılelma", line])


# --- what logs say ---------------------------------------------------------------------------------------------------


def test_redacted_is_the_text_with_the_kind_in_the_place_of_what_was_found():
    text = f"Ali (ali@example.com) {IBAN} hesabına, Kızılelma için"
    assert redacted(text, WORDS) == "Ali ([e-mail]) [iban] hesabına, [word] için"
    assert redacted("") == ""


def test_a_log_has_of_an_instances_error_only_words_that_are_an_engines():
    said = "llama runner process has terminated: CUDA error: out of memory, at prompt: gizli sorum"
    why = InstanceError("gpu-1.a", "answered 500", quoted=said)
    assert str(why) == f"gpu-1.a: answered 500: {said}"
    assert why.in_log == ("gpu-1.a: answered 500: llama runner process has terminated, cuda error, out of memory")
    assert "gizli" not in InstanceError("gpu-1.a", "", quoted="gizli sorum: EOFgizli").in_log
    assert InstanceError("gpu-1.a", "silent for 3 s").in_log == "gpu-1.a: silent for 3 s"
    assert CallerError(400, "json: gizli sorum").in_log == "refused with 400 (invalid_request_error)"


def test_words_of_engines_are_few_and_carry_no_others():
    said = "model requires more system memory (12.4 GiB) than is available (3.1 GiB)"
    assert known_words(f"gizli {said} gizli") == said.lower()
    assert known_words("gizli") == ""
