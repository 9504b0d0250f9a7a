"""YAML text to plain values, with the place of each key and value. Knows YAML and nothing of settings.

It reads YAML 1.2's core types, of which YAML 1.1's surprises are no part: `off` and `no` are text, `12:30` is no number
and `2024-01-01` no date. Keys are always text. A file is a person's work, so it is bounded as one: its size, its
depth, and how many values it has once aliases are written out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

FieldPath = tuple[str | int, ...]

MAX_BYTES = 2**20
MAX_DEPTH = 32
MAX_VALUES = 20_000  # written out: an alias counts as all that it stands for

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"

# Each is a part of what YAML 1.1 takes for the type, so that text which PyYAML writes without quotes stays text here.
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9_]{0,30})$")
_FLOAT = re.compile(r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")

_HINTS = (
    ("cannot start any token", "a text that begins with this character stands in quotes; indent with blanks, not tabs"),
    ("mapping values are not allowed", "a text with a colon and a blank in it stands in quotes"),
    ("expected <block end>", "keys of one section start in the same column"),
    ("could not find expected ':'", "a key is followed by a colon and a blank"),
    ("undefined alias", "an alias *NAME needs its anchor &NAME above; a text that begins with * stands in quotes"),
    ("end of stream", "a quote or bracket is opened and not closed"),
    ("<stream end>", "a quote or bracket is opened and not closed"),
    ("expected the node content", "a text that begins with a bracket or brace, such as [::]:11434, stands in quotes"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is written, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing that is wrong with the YAML itself."""

    path: FieldPath
    place: Place
    message: str


@dataclass(slots=True)
class Document:
    """A document's values. `places` has each path's value where that is on one line, otherwise its key."""

    value: Any = None
    places: dict[FieldPath, Place] = field(default_factory=dict)
    keys: dict[FieldPath, Place] = field(default_factory=dict)
    flaws: list[Flaw] = field(default_factory=list)
    is_readable: bool = True  # False: `value` is nothing, or a part of what is written

    def place_of(self, path: FieldPath, *, key: bool = False) -> Place:
        """The place of `path`, or of the nearest thing around it that is written."""
        while path:
            if key and path in self.keys:
                return self.keys[path]
            if path in self.places:
                return self.places[path]
            path = path[:-1]
        return Place(1, 1)


def read(text: str) -> Document:
    """Read one YAML document. What is wrong with it is in `flaws`: one thing only where it is not readable at all."""
    document = Document()
    if len(text.encode(errors="replace")) > MAX_BYTES:
        return _failed(document, Place(1, 1), f"the file is larger than {MAX_BYTES // 2**20} MiB")
    try:
        node = _composed(text)
    except yaml.reader.ReaderError as error:
        place = _place_of_index(text, int(error.position))
        return _failed(document, place, f"the character U+{int(error.character):04X} is not allowed in YAML")
    except yaml.MarkedYAMLError as error:
        return _failed(document, _place(error.problem_mark or error.context_mark), _syntax_words(error))
    if node is not None:
        _Reader(document).read(node)
    return document


def _composed(text: str) -> yaml.Node | None:
    """The document's one node. Raises yaml.MarkedYAMLError or yaml.reader.ReaderError."""
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    except (ValueError, OverflowError) as error:  # PyYAML takes numbers in escapes and in %YAML for good as they are
        problem = "a number in an escape or a directive is out of range"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=loader.get_mark()) from error
    finally:
        loader.dispose()


def _failed(document: Document, place: Place, message: str) -> Document:
    document.flaws.append(Flaw((), place, message))
    document.is_readable = False
    return document


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark is not None else Place(1, 1)


def _place_of_index(text: str, index: int) -> Place:
    return Place(text.count("\n", 0, index) + 1, index - (text.rfind("\n", 0, index) + 1) + 1)


def _syntax_words(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's sentence, the line where what it was reading began, and what usually helps."""
    said = f"{error.context + ': ' if error.context else ''}{error.problem}"
    if (
        error.context
        and error.context_mark
        and error.problem_mark
        and error.context_mark.line != error.problem_mark.line
    ):
        said = f"{error.context} that begins on line {error.context_mark.line + 1}: {error.problem}"
    hint = next((hint for words, hint in _HINTS if words in said), None)
    return f"not valid YAML: {said}{f' ({hint})' if hint else ''}"


class _Loader(yaml.SafeLoader):
    """PyYAML's own parser: the C one has no bound on depth, and a settings file is small."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (replaces the base's)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        self._nodes += 1
        if self._depth > MAX_DEPTH or self._nodes > MAX_VALUES:
            bound = f"deeper than {MAX_DEPTH} levels" if self._depth > MAX_DEPTH else f"more than {MAX_VALUES} values"
            raise yaml.MarkedYAMLError(problem=bound, problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and _HALF_CHARACTER.search(node.value):
            problem = "an escape such as \\ud800 is half a character and no text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        self._depth -= 1
        return node


for _tag, _pattern in (
    ("null", _NULL),
    ("bool", _BOOL),
    ("int", _INT),
    ("float", _FLOAT),
    ("merge", re.compile("^<<$")),
):
    _Loader.add_implicit_resolver(_TAG + _tag, _pattern, None)


_SCALARS: dict[str, Callable[[str], Any]] = {
    _TAG + "null": lambda text: None,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": lambda text: int(text.replace("_", "")),
    _TAG + "float": lambda text: float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan")),
    _TAG + "str": str,
}


class _Reader:
    """Nodes to values. An alias is written out where it stands, within the bounds of the whole."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._values = 0
        self._depth = 0

    def read(self, node: yaml.Node) -> None:
        try:
            self._document.value = self._value(node, ())
        except _TooMuchError as error:
            self._flaw(error.path, error.node, str(error))
            self._document.is_readable = False

    def _value(self, node: yaml.Node, path: FieldPath) -> Any:
        self._values += 1
        self._depth += 1  # not the path's length: an anchor may hold itself, also through `<<`, which adds no step
        if self._values > MAX_VALUES or self._depth > MAX_DEPTH:
            raise _TooMuchError(path, node)
        value = self._collection_or_scalar(node, path)
        self._depth -= 1
        return value

    def _collection_or_scalar(self, node: yaml.Node, path: FieldPath) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            self._document.places.setdefault(path, _place(node.start_mark))
            return [self._value(each, (*path, index)) for index, each in enumerate(node.value)]
        self._document.places[path] = _place(node.start_mark)
        return self._scalar(node, path)

    def _scalar(self, node: yaml.Node, path: FieldPath) -> Any:
        construct = _SCALARS.get(node.tag) if isinstance(node, yaml.ScalarNode) else None
        if construct is None:
            self._flaw(path, node, f"the YAML tag {node.tag.removeprefix(_TAG)!r} is not used here; leave it out")
            return None
        try:
            return construct(node.value)
        except ValueError:
            self._flaw(path, node, "this is not of the type that its YAML tag says")
            return None

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        self._document.places.setdefault(path, _place(node.start_mark))
        values: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                values = self._merged(value, path) | values
        for key, value in node.value:
            if key.tag == _MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._flaw(path, key, "a key is one word or a text, not a list or a mapping")
            elif key.value in first:
                self._flaw(
                    (*path, key.value), key, f"written twice, first on line {first[key.value]}; keep one of them"
                )
            else:
                first[key.value] = key.start_mark.line + 1
                values[key.value] = self._entry(key, value, (*path, key.value))
        return values

    def _entry(self, key: yaml.Node, value: yaml.Node, path: FieldPath) -> Any:
        place = _place(key.start_mark)
        self._document.keys[path] = self._document.places[path] = place
        return self._value(value, path)

    def _merged(self, node: yaml.Node, path: FieldPath) -> dict[str, Any]:
        """What `<<: *anchor` or `<<: [*one, *two]` brings in; the earlier of two wins."""
        values: dict[str, Any] = {}
        for each in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if isinstance(each, yaml.MappingNode):
                values = self._value(each, path) | values
            else:
                self._flaw(path, each, "`<<` takes the alias of a mapping, such as *defaults")
        return values

    def _flaw(self, path: FieldPath, node: yaml.Node, message: str) -> None:
        self._document.flaws.append(Flaw(path, _place(node.start_mark), message))


class _TooMuchError(Exception):
    def __init__(self, path: FieldPath, node: yaml.Node) -> None:
        super().__init__(f"with its aliases written out the file has over {MAX_VALUES} values or {MAX_DEPTH} levels")
        self.path = path[:2]  # where to look; the rest may be the same step over and over
        self.node = node
