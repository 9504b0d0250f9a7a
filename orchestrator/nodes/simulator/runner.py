"""One loaded model of a simulated Ollama: its slots, the line before them, and the steps that serve them together.

As llama.cpp does, one step gives a token to every slot that writes and up to 512 tokens of prompt to those that read;
a slot whose client left is free at once while it writes, and after the step while it reads. The line is first in,
first out and has no end: Ollama bounds only requests that wait for a load.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator.core.cards import Card
from orchestrator.core.model import ToolCall
from orchestrator.core.physics import PREFILL_BATCH, decode_step_s, kv_bytes_per_token, prefill_s
from orchestrator.nodes.simulator.config import SimulatedModel
from orchestrator.nodes.simulator.seats import CardSeats

# llama.cpp keeps the caches of idle slots in up to 8 GiB of host memory a runner (measured; OLLAMA's `size` hides it).
_PREFIX_CACHE_BYTES: Final = 8 * 2**30
PREFIX_BLOCK_TOKENS: Final = 16
# A process that was not scheduled in time catches up this much, as a card would not have waited for it.
_CATCH_UP_S: Final = 0.1


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
    wait_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    read: int = 0
    written: int = 0
    is_gone: bool = False
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


def watched(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that runs as long as the process; what ends it is told at once, for the requests it serves would hang."""
    loop = asyncio.get_running_loop()

    def tell(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (why := task.exception()) is not None:
            loop.call_exception_handler({"message": "the simulator is broken", "exception": why, "task": task})

    task = loop.create_task(work)
    task.add_done_callback(tell)
    return task


class Runner:
    """Serves one model with one context until it is closed."""

    def __init__(self, model: SimulatedModel, context: int, card: Card, seats: CardSeats, speed: float) -> None:
        self.model, self.context = model, context
        self._card, self._seats, self._speed = card, seats, speed
        self._kv_token_bytes = kv_bytes_per_token(model.shape, model.kv_type)
        self._waiting: deque[Work] = deque()
        self._running: list[Work] = []
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._told_card = 0
        self._clock_s = 0.0
        self._due = 0.0
        self._wake = asyncio.Event()
        self._task = watched(self._serve())

    async def pieces(self, work: Work) -> AsyncGenerator[Piece, None]:
        """Put `work` in the line and give its pieces as they are written; leaving early frees its slot."""
        self._waiting.append(work)
        self._wake.set()
        try:
            while True:
                while work.ready:
                    piece = work.ready.popleft()
                    if piece is None:
                        return
                    yield piece
                work.news.clear()
                await work.news.wait()
        finally:
            self._leave(work)

    def new_work(self, reply: Reply, prefix: Sequence[int]) -> Work:
        return Work(reply, prefix, self._clock_s)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._running.clear()
        self._tell_card()

    def _leave(self, work: Work) -> None:
        work.is_gone = True
        if work in self._waiting:
            self._waiting.remove(work)
        elif work in self._running and not work.is_reading:
            self._running.remove(work)
            self._wake.set()
            self._tell_card()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._admit()
            if not self._running:
                self._wake.clear()
                await self._wake.wait()
                self._due = loop.time()
                continue
            reading = self._next_reading()
            writing = [work for work in self._running if not work.is_reading]
            step_s = self._step_s(sum(tokens for _, tokens in reading), writing)
            self._due = max(self._due, loop.time() - _CATCH_UP_S) + step_s / self._speed
            await asyncio.sleep(max(0.0, self._due - loop.time()))
            self._clock_s += step_s
            self._settle(reading, writing, step_s)

    def _admit(self) -> None:
        before = len(self._running)
        while self._waiting and len(self._running) < self.model.slots:
            work = self._waiting.popleft()
            work.wait_s = self._clock_s - work.queued_at_s
            work.read = min(self._remembered(work.prefix), max(0, work.reply.prompt_tokens - 1))
            self._running.append(work)
        if len(self._running) != before:
            self._tell_card()

    def _next_reading(self) -> list[tuple[Work, int]]:
        room, reading = PREFILL_BATCH, []
        for work in self._running:
            tokens = min(room, work.reply.prompt_tokens - work.read)
            if tokens > 0:
                reading.append((work, tokens))
                room -= tokens
        return reading

    def _step_s(self, prompt_tokens: int, writing: Sequence[Work]) -> float:
        share = self._seats.share()
        seconds = prefill_s(self._card, self.model.shape, prompt_tokens, share) if prompt_tokens else 0.0
        if writing or prompt_tokens:
            live = sum(work.reply.prompt_tokens + work.written for work in writing) * self._kv_token_bytes
            seconds += decode_step_s(self._card, self.model.shape, live, share)
        return seconds

    def _settle(self, reading: Sequence[tuple[Work, int]], writing: Sequence[Work], step_s: float) -> None:
        for work, tokens in reading:
            work.read += tokens
            work.prefill_s += step_s
            if not work.is_reading:
                self._remember(work.prefix)
                # The step that reads the last of the prompt also gives the first token.
                self._advance(work)
        for work in writing:
            work.decode_s += step_s
            if not work.is_gone:
                self._advance(work)
        left = [work for work in self._running if not work.is_done and not work.is_gone]
        if len(left) != len(self._running):
            self._running = left
            self._tell_card()

    def _advance(self, work: Work) -> None:
        if not work.is_done:
            work.write_token()
        if work.is_done:
            work.tell(None)

    def _tell_card(self) -> None:
        self._seats.change_active(len(self._running) - self._told_card)
        self._told_card = len(self._running)

    def _remembered(self, prefix: Sequence[int]) -> int:
        blocks = 0
        for block in prefix:
            if block not in self._seen:
                break
            self._seen.move_to_end(block)
            blocks += 1
        return blocks * PREFIX_BLOCK_TOKENS

    def _remember(self, prefix: Sequence[int]) -> None:
        for block in reversed(prefix):  # the beginning of a prompt is forgotten last
            self._seen[block] = None
            self._seen.move_to_end(block)
        most = int(_PREFIX_CACHE_BYTES / (self._kv_token_bytes * PREFIX_BLOCK_TOKENS))
        while len(self._seen) > most:
            self._seen.popitem(last=False)
