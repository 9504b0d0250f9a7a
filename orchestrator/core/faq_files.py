"""Curated answers as files: YAML, CSV and JSONL read, and written. Texts come in and go out; files are the caller's.

Every mistake is told with the file's name, its line, the entry and the field, all of a file at once. YAML is read from
its nodes: they know their lines, and take half the time of finished values.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import PurePath
from typing import Any, Final

import yaml

from orchestrator.core.faq import LANGUAGES, QUESTION_LETTERS_MAX, FaqEntry, FaqError, fold

FIELDS: Final = (
    "questions", "answer", "language", "source", "author", "tags", "valid_from", "valid_until", "paraphrases",
)  # fmt: skip
FORMATS: Final = {".yaml": "yaml", ".yml": "yaml", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_LISTS: Final = frozenset({"questions", "tags"})
_DAYS: Final = frozenset({"valid_from", "valid_until"})
_PROBLEMS_MAX: Final = 20  # told of one file
_STRING, _NULL, _DAY, _BOOL = (f"tag:yaml.org,2002:{each}" for each in ("str", "null", "timestamp", "bool"))
_YES_NO: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class _Given:
    """A field's value as a file has it, checked for nothing but what the file's format can say, and its line."""

    value: Any
    line: int


@dataclass(frozen=True, slots=True)
class _Row:
    """One entry as given."""

    number: int
    line: int
    fields: Mapping[str, _Given]


class _WrongError(Exception):
    """One field is wrong: (field, line, what and what to do)."""


def format_of(name: str) -> str:
    """The format that a file's name tells: yaml, csv or jsonl. Raises FaqError for others."""
    found = FORMATS.get(PurePath(name).suffix.lower())
    if found is None:
        raise FaqError(f"{name}: its name ends in none of {', '.join(FORMATS)}, so what it holds is not known")
    return found


def parse_faq(text: str, name: str) -> tuple[FaqEntry, ...]:
    """The entries of a file called `name`. Raises FaqError with a line for each mistake, a score of them at most."""
    read = {"yaml": _yaml_rows, "csv": _csv_rows, "jsonl": _jsonl_rows}[format_of(name)]
    entries: list[FaqEntry] = []
    problems: list[str] = []
    for row in read(text, name):
        try:
            entries.append(_entry(row, name))
        except _WrongError as why:
            field, line, words = why.args
            place = f"{field}: " if field else ""
            problems.append(f"{name}:{line}: entry {row.number}, {place}{words}")
            if len(problems) == _PROBLEMS_MAX:
                problems.append(f"{name}: and perhaps more")
                break
    if problems:
        raise FaqError("\n".join(problems))
    return tuple(entries)


def render_faq(entries: Iterable[FaqEntry], wanted: str) -> str:
    """The entries as a file of that format: yaml, csv or jsonl. What is read from it is the same entries."""
    renders: dict[str, Callable[[Iterable[FaqEntry]], str]] = {
        "yaml": _as_yaml, "csv": _as_csv, "jsonl": _as_jsonl,
    }  # fmt: skip
    return renders[wanted](entries)


# --- an entry, checked ----------------------------------------------------------------------------------------------


def _entry(row: _Row, name: str) -> FaqEntry:
    given = row.fields
    unknown = next((each for each in given if each not in FIELDS), None)
    if unknown is not None:
        raise _WrongError(unknown, given[unknown].line, f"no such field; there are {', '.join(FIELDS)}")
    language = _text(row, "language")
    if language not in LANGUAGES:
        raise _WrongError("language", given["language"].line, f"{language!r} is not one of {', '.join(LANGUAGES)}")
    first, last = _day(row, "valid_from"), _day(row, "valid_until")
    if first and last and last < first:
        raise _WrongError("valid_until", given["valid_until"].line, "before valid_from: the entry would never answer")
    return FaqEntry(
        questions=_questions(row, language),
        answer=_text(row, "answer"),
        language=language,
        source=_text(row, "source") if "source" in given else "",
        author=_text(row, "author") if "author" in given else "",
        tags=_texts(row, "tags") if "tags" in given else (),
        valid_from=first,
        valid_until=last,
        paraphrases=_truth(row, "paraphrases"),
        origin=f"{name}:{row.line}",
    )


def _questions(row: _Row, language: str) -> tuple[str, ...]:
    questions = _texts(row, "questions")
    line = row.fields["questions"].line
    if not questions:
        raise _WrongError("questions", line, "at least one is needed")
    for each in questions:
        if len(each) > QUESTION_LETTERS_MAX:
            raise _WrongError("questions", line, f"longer than {QUESTION_LETTERS_MAX} letters: {each[:40]!r}…")
        if not fold(each, language):
            raise _WrongError("questions", line, f"{each!r} has no word in it")
    return questions


def _texts(row: _Row, field: str) -> tuple[str, ...]:
    given = row.fields.get(field, _Given(None, row.line))
    if not isinstance(given.value, list):
        raise _WrongError(field, given.line, "a list of texts is expected")
    return tuple(_as_text(each, field, given.line) for each in given.value)


def _text(row: _Row, field: str) -> str:
    if field not in row.fields:
        raise _WrongError(field, row.line, "missing")
    given = row.fields[field]
    return _as_text(given.value, field, given.line)


def _as_text(given: Any, field: str, line: int) -> str:
    value, line = (given.value, given.line) if isinstance(given, _Given) else (given, line)
    if not isinstance(value, str):
        raise _WrongError(field, line, f"{value!r} is not a text here; put it in quotes")
    text = value.strip()
    if not text:
        raise _WrongError(field, line, "empty")
    return text


def _day(row: _Row, field: str) -> date | None:
    given = row.fields.get(field)
    if given is None or given.value is None:
        return None
    value = given.value
    if isinstance(value, str) and len(value) == len("2026-01-31"):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass  # told below, like any other text
    raise _WrongError(field, given.line, f"a day is expected, like 2026-01-31; {value!r} is none")


def _truth(row: _Row, field: str) -> bool:
    given = row.fields.get(field)
    if given is None or given.value is None:
        return True
    if not isinstance(given.value, bool):
        raise _WrongError(field, given.line, "true or false is expected")
    return given.value


# --- YAML -----------------------------------------------------------------------------------------------------------

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML has it


def _yaml_rows(text: str, name: str) -> Iterator[_Row]:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the last two: a wrong letter, too deep
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark is not None else name
        raise FaqError(f"{place}: cannot be read as YAML: {getattr(error, 'problem', None) or error}") from error
    finally:
        loader.dispose()
    if not isinstance(root, yaml.SequenceNode):
        raise FaqError(f"{name}: a list of entries is expected, each beginning with `- questions:`")
    for number, node in enumerate(root.value, start=1):
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.MappingNode):
            raise FaqError(f"{name}:{line}: entry {number}: fields are expected: {', '.join(FIELDS)}")
        fields: dict[str, _Given] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in fields:
                where = f"{name}:{key.start_mark.line + 1}: entry {number}"
                raise FaqError(f"{where}: a field is given twice, or has no name")
            fields[key.value] = _of_node(key.value, value)
        yield _Row(number, line, fields)


def _of_node(field: str, node: yaml.Node) -> _Given:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return _Given([_of_node("", each) for each in node.value], line)
    if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL:
        return _Given(None if isinstance(node, yaml.ScalarNode) else {}, line)
    if node.tag == _STRING or (field in _DAYS and node.tag == _DAY):
        return _Given(node.value, line)
    if field == "paraphrases" and node.tag == _BOOL:
        return _Given(_YES_NO[node.value.lower()], line)
    return _Given(_NotText(node.value), line)


class _NotText:
    """A number, a day or a truth to YAML, where a text was meant: 112, no."""

    def __init__(self, written: str) -> None:
        self._written = written

    def __repr__(self) -> str:
        return self._written


def _as_yaml(entries: Iterable[FaqEntry]) -> str:
    return "\n".join(_yaml_entry(each) for each in entries)


def _yaml_entry(entry: FaqEntry) -> str:
    lines = [f"    - {_quoted(each)}" for each in entry.questions]
    told = ["- questions:", *lines, f"  answer: {_quoted(entry.answer)}", f"  language: {entry.language}"]
    told += [f"  {name}: {_quoted(text)}" for name in ("source", "author") if (text := getattr(entry, name))]
    if entry.tags:
        told.append(f"  tags: [{', '.join(map(_quoted, entry.tags))}]")
    told += [f"  {name}: {day}" for name in ("valid_from", "valid_until") if (day := getattr(entry, name))]
    if not entry.paraphrases:
        told.append("  paraphrases: false")
    return "\n".join(told) + "\n"


def _quoted(text: str) -> str:
    # What JSON quotes, YAML reads the same; but for two marks that end a line to YAML.
    return json.dumps(text, ensure_ascii=False).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace(
        "\u0085", "\\u0085"
    )  # fmt: skip


# --- CSV: a row an entry, its questions and tags one a line within their cell ---------------------------------------


def _csv_rows(text: str, name: str) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        head = [each.strip() for each in next(reader, [])]
        if "questions" not in head or "answer" not in head:
            raise FaqError(
                f"{name}:1: the first row names the columns: {', '.join(FIELDS)}; `questions` and `answer` are needed"
            )
        if len(set(head)) != len(head):
            raise FaqError(f"{name}:1: a column is named twice")
        line = reader.line_num + 1
        for number, cells in enumerate(reader, start=1):
            if any(cells):
                if len(cells) != len(head):
                    raise FaqError(f"{name}:{line}: entry {number}: {len(cells)} cells, but {len(head)} columns")
                yield _Row(number, line, {each: _of_cell(each, cell, line) for each, cell in zip(head, cells) if cell})  # noqa: B905
            line = reader.line_num + 1
    except csv.Error as error:
        raise FaqError(f"{name}:{reader.line_num}: cannot be read as CSV: {error}") from error


def _of_cell(field: str, cell: str, line: int) -> _Given:
    if field in _LISTS:
        return _Given([each for each in cell.splitlines() if each.strip()], line)
    if field == "paraphrases":
        return _Given(_YES_NO.get(cell.strip().lower(), cell), line)
    return _Given(cell.strip() if field in _DAYS else cell, line)


def _as_csv(entries: Iterable[FaqEntry]) -> str:
    made = io.StringIO(newline="")
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(FIELDS)
    for each in entries:
        writer.writerow(["\n".join(value) if isinstance(value, list) else value for value in _plain(each).values()])
    return made.getvalue()


# --- JSONL: an object an entry, one a line --------------------------------------------------------------------------


def _jsonl_rows(text: str, name: str) -> Iterator[_Row]:
    number = 0
    for line, each in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not each.strip():
            continue
        number += 1
        try:
            given = json.loads(each, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise FaqError(f"{name}:{line}: cannot be read as JSON: {error}") from error
        if not isinstance(given, dict):
            raise FaqError(f"{name}:{line}: entry {number}: an object is expected, with fields {', '.join(FIELDS)}")
        yield _Row(number, line, {field: _Given(value, line) for field, value in given.items()})


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a field is given twice")
    return made


def _as_jsonl(entries: Iterable[FaqEntry]) -> str:
    return "".join(
        json.dumps({name: value for name, value in _plain(each).items() if value not in ("", [])}, ensure_ascii=False)
        + "\n"
        for each in entries
    )


def _plain(entry: FaqEntry) -> dict[str, Any]:
    """An entry's fields as texts and lists; what it does not have is empty."""
    return {
        "questions": list(entry.questions),
        "answer": entry.answer,
        "language": entry.language,
        "source": entry.source,
        "author": entry.author,
        "tags": list(entry.tags),
        "valid_from": str(entry.valid_from or ""),
        "valid_until": str(entry.valid_until or ""),
        "paraphrases": "" if entry.paraphrases else False,
    }
