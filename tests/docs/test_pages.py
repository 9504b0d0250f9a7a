"""What quick start and tasks show is so: commands exist, settings are valid, paths are served, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from docs.site.openapi import served
from orchestrator.app.live_settings import check
from orchestrator.settings.file import load
from tests.docs.pages import DOCS, ENGLISH, EVERY, TASKS, TURKISH, blocks, calls_of_the_program, commands, links, parsed
from tests.house import ROOT

SHOWN = [ENGLISH, TURKISH, *TASKS]
# Files that settings on the pages name, as their readers have them.
_FILES = {
    "faq.yaml": "- questions: [When do you open?]\n  answer: At eight.\n  language: en\n",
    "operator.key": "0123456789abcdef0123456789abcdef",
    "ollama-linux-amd64.tgz": "",
}


def test_there_is_a_quick_start_in_two_languages_and_a_page_a_task():
    assert calls_of_the_program(ENGLISH)
    assert calls_of_the_program(TURKISH)
    assert len(TASKS) > 10


@pytest.mark.parametrize("page", SHOWN, ids=lambda each: each.stem)
def test_every_command_shown_is_one(page):
    for words in calls_of_the_program(page):
        parsed(words, is_group_enough=True)


@pytest.mark.parametrize("page", SHOWN, ids=lambda each: each.stem)
def test_every_target_of_make_shown_is_there(page):
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    for words in commands(page):
        if words[0] == "make":
            assert re.search(rf"^{re.escape(words[1])}:", made, re.MULTILINE), words


@pytest.mark.parametrize("page", SHOWN, ids=lambda each: each.stem)
def test_every_path_shown_is_served(page):
    for words in commands(page):
        for url in (word for word in words if word.startswith("http://127.0.0.1:") and words[0] == "curl"):
            methods = served()[urlsplit(url).path].methods
            assert bool({"POST", "DELETE"}.intersection(methods)) == ("-d" in words), url


@pytest.mark.parametrize("page", [each for each in SHOWN if blocks(each, "yaml")], ids=lambda each: each.stem)
def test_every_settings_file_shown_is_valid(page, tmp_path, monkeypatch):
    monkeypatch.setenv("SUPPORT_KEY", "fedcba9876543210fedcba9876543210")
    monkeypatch.setenv("GROQ_KEY", "gsk-an-entirely-made-up-key")
    for name, text in _FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o600)
    for block in blocks(page, "yaml"):
        (tmp_path / "cluster.yaml").write_text(block, encoding="utf-8")
        check(load(tmp_path / "cluster.yaml"))


def test_the_turkish_quick_start_shows_the_same_commands():
    def skeleton(page: Path) -> list[list[str]]:
        """Each command without what is said in a language."""
        return [[word for word in words if " " not in word] for words in commands(page)]

    assert skeleton(TURKISH) == skeleton(ENGLISH)


@pytest.mark.parametrize("page", EVERY, ids=lambda each: str(each.relative_to(DOCS)))
def test_every_link_leads_to_a_file_of_the_repository(page):
    for target in links(page):
        assert (page.parent / target).exists(), target
        assert (page.parent / target).resolve().is_relative_to(ROOT), target


def test_every_task_is_in_the_list_of_tasks():
    assert set(links(DOCS / "tasks" / "index.md")) >= {each.name for each in TASKS} - {"index.md"}
