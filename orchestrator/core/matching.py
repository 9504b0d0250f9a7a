"""Which route a call takes, by what it says of itself: its model's name, headers, key, path, text, size and needs.

How hard its question is, is not asked here: that decides between the tiers of the route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from orchestrator.core.dialects.conversation import wants_format
from orchestrator.core.dialects.parse import Turn, turns
from orchestrator.core.difficulty import look
from orchestrator.core.difficulty_kind import language_of
from orchestrator.core.model import Call
from orchestrator.core.patterns import Pattern, is_like

# A first guess, from texts alone: both languages have 3 to 5 letters a token.
LETTERS_A_TOKEN: Final = 4
OTHER_LANGUAGE: Final = "other"


@dataclass(frozen=True, slots=True)
class Match:
    """What a call must have, all of it; of several globs one. Nothing said: whatever it has is right.

    `models` empty: the call asked for a route, and not for a model of its own choice.
    """

    models: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    keys: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    text: Pattern | None = None
    tokens_from: int | None = None
    tokens_to: int | None = None
    has_tools: bool | None = None
    has_images: bool | None = None
    has_schema: bool | None = None
    languages: tuple[str, ...] = ()


class Looked:
    """A call as rules look at it; what costs something is worked out once, and only where a rule asks for it."""

    def __init__(self, call: Call, path: str, key: str, headers: Mapping[bytes, bytes], *, is_for_route: bool) -> None:
        self.call, self.path, self.key, self.is_for_route = call, path, key, is_for_route
        self._headers = headers

    def header(self, name: str) -> str | None:
        value = self._headers.get(name.lower().encode("ascii", "replace"))
        return None if value is None else value.decode("utf-8", "replace")

    @cached_property
    def turns(self) -> tuple[Turn, ...]:
        return turns(self.call)

    @cached_property
    def text(self) -> str:
        """The last thing the user said."""
        return next((turn.text for turn in reversed(self.turns) if turn.role == "user"), "")

    @cached_property
    def tokens(self) -> int:
        """Of the prompt, as far as one can tell before an engine has counted them."""
        return sum(len(turn.text) for turn in self.turns) // LETTERS_A_TOKEN

    @cached_property
    def has_tools(self) -> bool:
        return bool(self.call.body.get("tools"))

    @cached_property
    def has_images(self) -> bool:
        return any(turn.has_images for turn in self.turns) or bool(self.call.body.get("images"))

    @cached_property
    def has_schema(self) -> bool:
        return wants_format(self.call)

    @cached_property
    def language(self) -> str:
        seen = look(self.text)
        return language_of(seen.text, seen.words) or OTHER_LANGUAGE


def failing(match: Match, looked: Looked) -> str:
    """The first thing that a call has not and must have, as the settings name it; empty: the match holds."""
    return next((name for name, holds in _TESTS if not holds(match, looked)), "")


def first_match(matches: Iterable[tuple[str, Match]], looked: Looked) -> str | None:
    """The name of the first that holds."""
    return next((name for name, match in matches if not failing(match, looked)), None)


def conditions(match: Match) -> Iterator[str]:
    """What a match says, as the settings name it."""
    usual = Match()
    for name, field in _FIELDS.items():
        if any(getattr(match, each) != getattr(usual, each) for each in field):
            yield name


def _model(match: Match, looked: Looked) -> bool:
    if not match.models:
        return looked.is_for_route
    return any(is_like(looked.call.model, each) for each in match.models)


def _header(match: Match, looked: Looked) -> bool:
    return all((given := looked.header(name)) is not None and is_like(given, glob) for name, glob in match.headers)


def _tokens(match: Match, looked: Looked) -> bool:
    if match.tokens_from is not None and looked.tokens < match.tokens_from:
        return False
    return match.tokens_to is None or looked.tokens <= match.tokens_to


_Test = Callable[[Match, Looked], bool]
# The cheap ones first.
_TESTS: Final[tuple[tuple[str, _Test], ...]] = (
    ("model", _model),
    ("key", lambda match, looked: not match.keys or any(is_like(looked.key, each) for each in match.keys)),
    ("path", lambda match, looked: not match.paths or any(is_like(looked.path, each) for each in match.paths)),
    ("header", _header),
    ("tools", lambda match, looked: match.has_tools in (None, looked.has_tools)),
    ("schema", lambda match, looked: match.has_schema is None or match.has_schema == looked.has_schema),
    ("images", lambda match, looked: match.has_images is None or match.has_images == looked.has_images),
    ("tokens", _tokens),
    ("language", lambda match, looked: not match.languages or looked.language in match.languages),
    ("text", lambda match, looked: match.text is None or match.text(looked.text)),
)
_FIELDS: Final = {
    "model": ("models",),
    "key": ("keys",),
    "path": ("paths",),
    "header": ("headers",),
    "tools": ("has_tools",),
    "schema": ("has_schema",),
    "images": ("has_images",),
    "tokens": ("tokens_from", "tokens_to"),
    "language": ("languages",),
    "text": ("text",),
}
