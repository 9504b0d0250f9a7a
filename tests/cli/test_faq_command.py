"""`ollamactl faq`: what it prints, what it changes, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import run

FAQ = """# ours
- questions: [otoyol hız limiti]
  answer: 120 km/h
  language: tr
  tags: [trafik]
- questions: ["is the pool open?"]
  answer: "yes"
  language: en
  valid_until: 2026-01-31
"""
CSV = 'questions,answer,language,tags\n"şehir içi hız limiti\nşehir içinde hız sınırı",50 km/h,tr,trafik\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cluster.yaml").write_text("models: {llama3.2:1b: }\ncache: {faq: [faq.yaml]}\n", encoding="utf-8")
    (tmp_path / "faq.yaml").write_text(FAQ, encoding="utf-8")
    return tmp_path


def test_check_counts_entries_and_tells_which_answer_no_more(folder: Path) -> None:
    told = run("faq", "check", cwd=folder)
    assert told.returncode == 0
    assert "2 entries, 2 questions, valid" in told.stdout
    assert "faq.yaml:6: answers nothing since 2026-01-31" in told.stdout


def test_check_tells_every_mistake_with_file_and_line_and_exits_3(folder: Path) -> None:
    (folder / "faq.yaml").write_text(
        "- questions: [a]\n  language: xx\n- answer: 5\n  language: en\n", encoding="utf-8"
    )
    told = run("faq", "check", cwd=folder)
    assert told.returncode == 3
    assert "faq.yaml:2: entry 1, language: 'xx' is not one of tr, en" in told.stderr
    assert "faq.yaml:3: entry 2, questions: a list of texts is expected" in told.stderr


def test_check_tells_entries_that_could_be_taken_for_one_another(folder: Path) -> None:
    more = "- questions: [otobanda hız sınırı]\n  answer: 130 km/h\n  language: tr\n"
    (folder / "faq.yaml").write_text(FAQ + more, encoding="utf-8")
    told = run("faq", "check", cwd=folder)
    assert told.returncode == 0
    assert told.stdout.count("in other words than theirs, neither is answered") == 1


def test_a_question_is_tried_word_for_word_and_in_other_words(folder: Path) -> None:
    assert "hit word for word: faq.yaml:2" in run("faq", "test", "OTOYOL HIZ LİMİTİ?", cwd=folder).stdout
    told = run("faq", "test", "otobanda hız sınırı nedir", cwd=folder)
    assert told.returncode == 0
    assert "hit as a paraphrase, likeness 0.9" in told.stdout
    assert "it asks what 'otoyol hız limiti' asks" in told.stdout
    assert run("faq", "test", "--word-for-word", "otobanda hız sınırı nedir", cwd=folder).returncode == 1


def test_a_miss_tells_the_nearest_entry_and_what_speaks_against_it(folder: Path) -> None:
    told = run("faq", "test", "otoyolda kamyon hız limiti", cwd=folder)
    assert told.returncode == 1
    assert "miss no entry asks this" in told.stdout
    assert "word only in what is asked: 'kamyon'" in told.stdout
    late = json.loads(run("faq", "test", "--json", "--on", "2026-03-01", "is the pool open", cwd=folder).stdout)
    assert late["hit"] is None
    assert late["near"][0]["is_valid"] is False
    assert run("faq", "test", "--on", "2026-01-31", "is the pool open", cwd=folder).returncode == 0


def test_entries_are_listed_by_tag_and_language(folder: Path) -> None:
    assert "120 km/h" in run("faq", "list", "--tag", "trafik", cwd=folder).stdout
    lines = run("faq", "list", "--language", "en", "--json", cwd=folder).stdout.splitlines()
    assert [json.loads(each)["answer"] for each in lines] == ["yes"]


def test_what_is_imported_stands_below_what_was_there_and_twice_is_once(folder: Path) -> None:
    (folder / "more.csv").write_text(CSV, encoding="utf-8")
    for added in (1, 0):
        told = run("faq", "import", "more.csv", cwd=folder)
        assert told.stdout == f"{added} entries added to {folder / 'faq.yaml'}, which has 3 now\n"
    text = (folder / "faq.yaml").read_text(encoding="utf-8")
    assert text.startswith(FAQ)
    assert run("faq", "test", "şehir içi hız sınırı", cwd=folder).returncode == 0
    assert sorted(each.name for each in folder.iterdir()) == ["cluster.yaml", "faq.yaml", "more.csv"]


def test_an_import_that_contradicts_changes_nothing(folder: Path) -> None:
    (folder / "more.csv").write_text("questions,answer,language\nOTOYOL HIZ LİMİTİ,130,tr\n", encoding="utf-8")
    told = run("faq", "import", "more.csv", cwd=folder)
    assert told.returncode == 3
    assert "has another answer in" in told.stderr
    assert (folder / "faq.yaml").read_text(encoding="utf-8") == FAQ


@pytest.mark.parametrize("kind", ["yaml", "csv", "jsonl"])
def test_what_is_exported_can_be_imported_elsewhere(folder: Path, kind: str) -> None:
    assert run("faq", "export", "--output", f"out.{kind}", cwd=folder).returncode == 0
    run("faq", "import", f"out.{kind}", "--into", "again.jsonl", cwd=folder)
    had, has = (
        run("faq", "export", "--format", "jsonl", "--file", each, cwd=folder).stdout
        for each in ("faq.yaml", "again.jsonl")
    )
    assert had == has != ""


def test_without_a_configuration_the_sample_is_meant(tmp_path: Path) -> None:
    told = run("faq", "test", "şehir içi hız limiti", cwd=tmp_path)
    assert "50 km/h" in told.stdout
    assert run("faq", "import", "none.csv", cwd=tmp_path).returncode == 2
