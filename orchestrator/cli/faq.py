"""`ollamactl faq …`: curated answers checked, listed, tried, brought in and written out. Needs no running cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path

import click

from orchestrator.app.curated import entries_of, faq_from
from orchestrator.cli.output import below, console, draw, fail, literal, table
from orchestrator.core.errors import SettingsError
from orchestrator.core.faq import Faq, FaqEntry, FaqError, Neighbour, fold
from orchestrator.core.faq_files import FORMATS, format_of, render_faq
from orchestrator.settings.defaults import SAMPLE_FAQ
from orchestrator.settings.file import load
from orchestrator.whole_file import write_whole

SHOWN_LETTERS = 100


def faq_files(config: Path | None, given: Sequence[Path]) -> tuple[Path, ...]:
    """The files named, otherwise those of the configuration, otherwise the sample that a cluster without one has."""
    if given:
        return tuple(given)
    if config is None:
        return (SAMPLE_FAQ,)
    return load(config).cache.faq


def run_check(files: Sequence[Path], *, today: date) -> int:
    """Say what the files hold; a SettingsError with every mistake otherwise. What is suspicious is told, no mistake."""
    began_s = time.perf_counter()
    known = faq_from(files)
    took_s = time.perf_counter() - began_s
    for path in files:
        console.print(literal(str(path)))
    questions = sum(len(each.questions) for each in known)
    console.print(f"{len(known)} entries, {questions} questions, valid; read and indexed in {took_s:.2f} s")
    for remark in _remarks(known, today):
        console.print(f"[yellow]note:[/yellow] {literal(remark)}")
    return 0


def run_list(files: Sequence[Path], *, tag: str, language: str, as_json: bool) -> int:
    """The entries, one a row."""
    entries = [
        each
        for each in faq_from(files)
        if (not tag or tag in each.tags) and (not language or each.language == language)
    ]
    if as_json:
        click.echo(render_faq(entries, "jsonl"), nl=False)
        return 0
    drawn = table("Where", "Language", "Question", "Answer", "Tags", "Valid")
    for each in entries:
        more = f" (+{len(each.questions) - 1})" if len(each.questions) > 1 else ""
        cells = (_place(each), each.language, each.questions[0] + more, _short(each.answer), ", ".join(each.tags))
        drawn.add_row(*map(literal, cells), _valid(each))
    draw(drawn)
    return 0


def run_test(files: Sequence[Path], question: str, *, today: date, paraphrases: bool, as_json: bool) -> int:
    """What the FAQ answers to `question`, how it was found, and what else is near. Exit code 1 where it does not."""
    known = faq_from(files, paraphrases=paraphrases)
    found = known.find(question, today)
    near = known.neighbours(question, today)
    if as_json:
        hit = {"answer": found.entry.answer, "entry": found.entry.origin, "match": found.how} if found else None
        told = {"hit": hit, "likeness": found.likeness if found else None, "near": [_as_json(each) for each in near]}
        click.echo(json.dumps(told, ensure_ascii=False, indent=2))
        return 0 if found else 1
    if found:
        how = "word for word" if found.likeness is None else f"as a paraphrase, likeness {found.likeness:.2f}"
        console.print(f"[green]hit[/green] {how}: {literal(_place(found.entry))}")
        if found.question:
            console.print(literal(f"  it asks what {found.question!r} asks"))
        console.print(literal(f"  {found.entry.answer}"))
    else:
        answers = {each.entry.answer for each in near if each.is_valid and not each.compared.objections}
        why = "more than one answer may be meant" if len(answers) > 1 else "no entry asks this"
        console.print(f"[red]miss[/red] {why}")
    for each in near:
        if found is None or each.entry is not found.entry:
            console.print(literal(f"near {each.compared.likeness:.2f} {_place(each.entry)}: {each.question!r}"))
            console.print(below("; ".join(_objections(each))))
    return 0 if found else 1


def run_import(files: Sequence[Path], target: Path) -> int:
    """Add the entries of `files` to `target`, all or none; what it has already is left out."""
    wanted = format_of(str(target))
    before = target.read_text(encoding="utf-8-sig") if target.exists() else ""
    has = entries_of([target]) if before.strip() else []
    known = {(fold(question, each.language), each.answer) for each in has for question in each.questions}
    new = [
        each
        for each in entries_of(files)
        if not all((fold(question, each.language), each.answer) in known for question in each.questions)
    ]
    try:
        Faq.from_entries([*has, *new])
    except FaqError as why:
        raise SettingsError(str(why)) from why
    if new:
        write_whole(target, _added(before, has, new, wanted))
    console.print(f"{len(new)} entries added to {literal(str(target))}, which has {len(has) + len(new)} now")
    return 0


def run_export(files: Sequence[Path], wanted: str, output: Path | None) -> int:
    """All entries as one file of that format."""
    text = render_faq(faq_from(files, paraphrases=False), wanted or (format_of(str(output)) if output else "yaml"))
    if output is None:
        click.echo(text, nl=False)
    else:
        write_whole(output, text)
        console.print(f"written to {literal(str(output))}")
    return 0


def import_target(config: Path | None, into: Path | None) -> Path:
    """Where imported entries go: the file named, or the one file that the configuration has."""
    if into is not None:
        return into
    files = load(config).cache.faq if config is not None else ()
    if len(files) != 1:
        endings = ", ".join(sorted(FORMATS))
        fail(f"`cache.faq` names {len(files)} files; say which one with --into FILE ({endings})", 2)
    return files[0]


def _added(before: str, has: Sequence[FaqEntry], new: Sequence[FaqEntry], wanted: str) -> str:
    """The file's text with what is new below: it keeps its comments. A CSV's columns may differ: it is made anew."""
    if not before.strip():
        return render_faq(new, wanted)
    if wanted == "csv":
        return render_faq([*has, *new], wanted)
    return before.rstrip("\n") + ("\n\n" if wanted == "yaml" else "\n") + render_faq(new, wanted)


def _remarks(known: Faq, today: date) -> Iterable[str]:
    for each in known:
        if each.valid_until and each.valid_until < today:
            yield f"{each.origin}: answers nothing since {each.valid_until}"
    told: set[frozenset[str]] = set()
    for each in known:
        for question in each.questions:
            for near in known.neighbours(question, today, most=3):
                pair = frozenset((each.origin, near.entry.origin))
                if near.entry.answer != each.answer and not near.compared.objections and pair not in told:
                    told.add(pair)
                    yield (
                        f"{each.origin}: {question!r} may mean {near.question!r} of {near.entry.origin}; "
                        "in other words than theirs, neither is answered"
                    )


def _objections(near: Neighbour) -> Sequence[str]:
    if not near.is_valid:
        return (f"not valid today{_until(near.entry)}", *near.compared.objections)
    return near.compared.objections or ("nothing against it",)


def _until(entry: FaqEntry) -> str:
    return f" ({_valid(entry)})"


def _as_json(near: Neighbour) -> dict[str, object]:
    told = {"entry": near.entry.origin, "question": near.question, "likeness": near.compared.likeness}
    return {**told, "is_valid": near.is_valid, "objections": list(near.compared.objections)}


def _place(entry: FaqEntry) -> str:
    name, _, line = entry.origin.rpartition(":")
    return f"{Path(name).name}:{line}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_LETTERS else line[: SHOWN_LETTERS - 1] + "…"


def _valid(entry: FaqEntry) -> str:
    if not (entry.valid_from or entry.valid_until):
        return "always"
    return f"{entry.valid_from or '…'} – {entry.valid_until or '…'}"
