"""Curated answers: checked, listed, tried, brought in, written out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import CONFIG, JSON

FAQ_FILES = click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="This file instead of the configuration's; may be given again.",
)


@click.group()
def faq() -> None:
    """Curated answers: check, list and try them, bring them in, write them out."""


@faq.command("check")
@CONFIG
@FAQ_FILES
def faq_check(config: Path | None, files: tuple[Path, ...]) -> None:
    """Check the files: every mistake with its line, and entries that could be taken for one another."""
    from datetime import UTC, datetime

    from orchestrator.cli.faq import faq_files, run_check

    sys.exit(run_check(faq_files(config, files), today=datetime.now(UTC).date()))


@faq.command("list")
@CONFIG
@FAQ_FILES
@click.option("--tag", default="", help="Only entries with this tag.")
@click.option("--language", type=click.Choice(["tr", "en"]), default=None, help="Only entries in this language.")
@JSON
def faq_list(config: Path | None, files: tuple[Path, ...], tag: str, language: str | None, as_json: bool) -> None:
    """The entries, one a row; with --json, one object a line."""
    from orchestrator.cli.faq import faq_files, run_list

    sys.exit(run_list(faq_files(config, files), tag=tag, language=language or "", as_json=as_json))


@faq.command("test")
@click.argument("question")
@CONFIG
@FAQ_FILES
@click.option("--on", type=click.DateTime(["%Y-%m-%d"]), default=None, help="As of this day.  [default: today]")
@click.option("--word-for-word", is_flag=True, help="Without paraphrases.")
@JSON
def faq_test(
    question: str, config: Path | None, files: tuple[Path, ...], on: Any, word_for_word: bool, as_json: bool
) -> None:
    """What QUESTION is answered and how it was found, or why not: the nearest entries, and what speaks against them."""
    from datetime import UTC, datetime

    from orchestrator.cli.faq import faq_files, run_test

    today = (on or datetime.now(UTC)).date()
    is_wide = not word_for_word
    sys.exit(run_test(faq_files(config, files), question, today=today, paraphrases=is_wide, as_json=as_json))


@faq.command("import")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@CONFIG
@click.option(
    "--into",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="File to add to, made where it is not there.  [default: the one that `cache.faq` names]",
)
def faq_import(sources: tuple[Path, ...], config: Path | None, into: Path | None) -> None:
    """Add the entries of SOURCES (.yaml, .csv, .jsonl) to a FAQ file: all, or none where one is wrong."""
    from orchestrator.cli.faq import import_target, run_import

    sys.exit(run_import(sources, import_target(config, into)))


@faq.command("export")
@CONFIG
@FAQ_FILES
@click.option("--format", "wanted", type=click.Choice(["yaml", "csv", "jsonl"]), default=None)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=None, help="[default: the screen]")
def faq_export(config: Path | None, files: tuple[Path, ...], wanted: str | None, output: Path | None) -> None:
    """All entries as one file."""
    from orchestrator.cli.faq import faq_files, run_export

    sys.exit(run_export(faq_files(config, files), wanted or "", output))
