"""One request on its way through a simulated model: what it will be told, piece by piece, and how far that is."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.core.model import ToolCall


@dataclass(frozen=True, slots=True)
class Piece:
    """One frame of an answer, and the tokens that were written for it."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[dict[str, object], ...] = ()
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model will say. `tail_tokens`: written after the last piece, such as the end-of-text token."""

    pieces: tuple[Piece, ...]
    finish: str
    prompt_tokens: int
    tail_tokens: int = 0
    context: tuple[int, ...] = ()

    @property
    def completion_tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces) + self.tail_tokens


@dataclass(slots=True, eq=False)
class Work:
    """One request on its way through the runner; seconds are simulated ones."""

    reply: Reply
    prefix: Sequence[int]  # a hash for each whole block of the prompt and what stands before it
    queued_at_s: float
    is_stream: bool
    wait_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    read: int = 0
    written: int = 0
    is_gone: bool = False
    is_stuck: bool = False
    ready: deque[Piece | None] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    completion_tokens: int = field(init=False)
    _sent: int = 0
    _owed: int = 0

    def __post_init__(self) -> None:
        self.completion_tokens = self.reply.completion_tokens

    @property
    def is_reading(self) -> bool:
        return self.read < self.reply.prompt_tokens

    @property
    def is_done(self) -> bool:
        return not self.is_reading and self.written >= self.completion_tokens

    def write_token(self) -> None:
        """One more token; a piece is told when its last one is written."""
        pieces = self.reply.pieces
        self.written += 1
        self._owed += 1
        if self._sent < len(pieces) and self._owed >= pieces[self._sent].tokens:
            self.tell(pieces[self._sent])
            self._sent, self._owed = self._sent + 1, 0

    def tell(self, piece: Piece | None) -> None:
        self.ready.append(piece)
        self.news.set()
