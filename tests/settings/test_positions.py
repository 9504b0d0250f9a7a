"""YAML as a settings file has it: core types only, places of everything, bounds on all that can grow."""

from __future__ import annotations

import pytest

from orchestrator.settings import positions
from orchestrator.settings.positions import MAX_BYTES, Place, read


def only_flaw(text: str) -> positions.Flaw:
    (flaw,) = read(text).flaws
    return flaw


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("off", "off"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", 1000),
        ("-3", -3),
        ("0.25", 0.25),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("1.5e+3", 1500.0),
        ("~", None),
        ("", None),
        ("'true'", "true"),
        ("!!str 12", "12"),
        ("9" * 40, "9" * 40),
    ],
)
def test_a_value_is_of_the_type_that_yaml_1_2_says(written, meant):
    value = read(f"key: {written}").value["key"]
    assert value == meant
    assert type(value) is type(meant)


def test_a_key_is_text_whatever_it_looks_like():
    assert read("on: 1\n12: 2\nllama3.2:3b: 3\n").value == {"on": 1, "12": 2, "llama3.2:3b": 3}


def test_places_are_those_of_values_and_of_the_keys_above_them():
    document = read("top:\n  list:\n    - a: 1\n    - b:  2\n")
    assert document.place_of(("top", "list", 1, "b")) == Place(4, 11)
    assert document.place_of(("top", "list", 1, "b"), key=True) == Place(4, 7)
    assert document.place_of(("top", "list", 0)) == Place(3, 7)
    assert document.place_of(("top", "list")) == Place(2, 3)
    assert document.place_of(("top", "missing")) == Place(1, 1)
    assert document.place_of(("none",)) == Place(1, 1)


def test_a_merged_mapping_gives_what_the_mapping_itself_does_not_say():
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc:\n  y: 9\n  <<: [*a, *b]\n"
    assert read(text).value["c"] == {"x": 1, "y": 9, "z": 4}


def test_a_key_written_twice_is_told_with_both_lines_and_reading_goes_on():
    document = read("a: 1\nb: 2\na: 3\n")
    assert document.flaws[0].place == Place(3, 1)
    assert "first on line 1" in document.flaws[0].message
    assert document.value == {"a": 1, "b": 2}
    assert document.is_readable


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb:\n\tc: 1", Place(3, 1), "indent with blanks"),
        ("listen: [::]:11434", Place(1, 10), "stands in quotes"),
        ("a: [1, 2", Place(1, 9), "not closed"),
        ("a: 'x", Place(1, 6), "not closed"),
        ("a: b: c", Place(1, 5), "in quotes"),
        ("a:\n  b: 1\n   c: 2", Place(3, 5), "in quotes"),
        ("a:\n  b: {c: 1}\n   d: 2", Place(3, 4), "same column"),
        ("a: *nope", Place(1, 4), "undefined alias"),
        ("a: 1\n---\nb: 2", Place(2, 1), "single document"),
        ("ok: 1\nb: \x01", Place(2, 4), "U+0001"),
        ("ok: \udc80", Place(1, 5), "U+DC80"),
        ('ok: "\\ud800"', Place(1, 5), "half a character"),
        ('"\\udfff": x', Place(1, 1), "half a character"),
        ('a: "\\UFFFFFFFF"', Place(1, 7), "out of range"),
        ("%YAML 1." + "1" * 5000 + "\n---\na: 1", Place(1, 9), "out of range"),
    ],
)
def test_text_that_is_no_yaml_is_told_with_its_place_and_what_helps(text, place, words):
    flaw = only_flaw(text)
    assert flaw.place == place
    assert words in flaw.message
    assert not read(text).is_readable


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['true']",
        "a: !mine 3",
        "a: !!set {x, y}",
        "a: !!binary aGk=",
        "a: !!timestamp 2024-01-01",
        "a: !!int no",
        "? [1, 2]\n: 3",
        "a: {<<: 3}",
    ],
)
def test_tags_and_keys_that_settings_do_not_need_are_refused(text):
    assert only_flaw(text).place.line == 1


def _bomb(levels: int) -> str:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        _bomb(9),
        "a: &a [*a]",
        "a: &a {<<: *a}",
        "a: &a {<<: [*a, *a]}",
        "a: &a {b: *a}",
        "a: " + "[" * 5000,
        "a: " + "{b: " * 5000,
        "- " * 5000 + "x",
        "a: [" + "1," * 30_000 + "]",
        "a: " + "x" * MAX_BYTES,
    ],
    ids=["bomb", "own item", "own merge", "own merges", "own value", "lists", "mappings", "dashes", "long", "large"],
)
def test_what_would_grow_without_end_is_refused(text):
    document = read(text)
    assert len(document.flaws) == 1
    assert not document.is_readable


def test_aliases_within_bounds_are_written_out():
    assert len(read(_bomb(3)).value["l2"]) == 10
