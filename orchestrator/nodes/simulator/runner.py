"""One loaded model of a simulated Ollama: its slots, the line before them, and the steps that serve them together.

As llama.cpp does, one step gives a token to every slot that writes and up to 512 tokens of prompt to those that read;
a slot whose client left is free at once while it writes, and after the step while it reads. The line is first in,
first out and has no end: Ollama bounds only requests that wait for a load.

A runner can be killed, as its process can be on a real host, and can lose slots to clients that leave, as Ollama's do.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, Final

from orchestrator.core.cards import Card
from orchestrator.core.physics import PREFILL_BATCH, decode_step_s, kv_bytes_per_token, prefill_s
from orchestrator.nodes.simulator.config import SimulatedModel
from orchestrator.nodes.simulator.seats import CardSeats
from orchestrator.nodes.simulator.work import Piece, Reply, Work

# llama.cpp keeps the caches of idle slots in up to 8 GiB of host memory a runner (measured; OLLAMA's `size` hides it).
_PREFIX_CACHE_BYTES: Final = 8 * 2**30
PREFIX_BLOCK_TOKENS: Final = 16
# A process that was not scheduled in time catches up this much, as a card would not have waited for it.
_CATCH_UP_S: Final = 0.1


RUNNER_DIED: Final = "an error was encountered while running the model: unexpected EOF"


class RunnerDiedError(Exception):
    """The runner was killed; its text is what Ollama says then."""

    def __init__(self) -> None:
        super().__init__(RUNNER_DIED)


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
    """Serves one model with one context until it is closed or killed.

    `jam_after`: when so many clients left their streams midway, the last one's slot stays taken until the end.
    """

    def __init__(
        self, model: SimulatedModel, context: int, card: Card, seats: CardSeats, speed: float, *, jam_after: int = 0
    ) -> None:
        self.model, self.context = model, context
        self.is_dead = False
        self._card, self._seats, self._speed = card, seats, speed
        self._left_midway, self._jam_after = 0, jam_after
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
        """Put `work` in the line and give its pieces as they are written; leaving early frees its slot.

        Raises RunnerDiedError.
        """
        self._waiting.append(work)
        self._wake.set()
        try:
            while True:
                while work.ready:
                    piece = work.ready.popleft()
                    if piece is None:
                        return
                    yield piece
                if self.is_dead:
                    raise RunnerDiedError
                work.news.clear()
                await work.news.wait()
        finally:
            self._leave(work)

    def new_work(self, reply: Reply, prefix: Sequence[int], *, is_stream: bool = False) -> Work:
        return Work(reply, prefix, self._clock_s, is_stream)

    def kill(self) -> None:
        """End it at once: whom it serves, and who waits, is told."""
        self.is_dead = True
        self._task.cancel()
        for work in (*self._running, *self._waiting):
            work.news.set()
        self._running.clear()
        self._tell_card()

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
            work.is_stuck = self._is_jammed_by(work)
            if not work.is_stuck:
                self._running.remove(work)
            self._wake.set()
            self._tell_card()

    def _is_jammed_by(self, work: Work) -> bool:
        """Whether this client's leaving blocks the producer of its stream for good, and its slot with it."""
        if not (work.is_stream and work.written):
            return False
        self._left_midway += 1
        return self._left_midway == self._jam_after

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._admit()
            if not self._at_work():
                self._wake.clear()
                await self._wake.wait()
                self._due = loop.time()
                continue
            reading = self._next_reading()
            writing = [work for work in self._at_work() if not work.is_reading]
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
        left = [work for work in self._running if work.is_stuck or not (work.is_done or work.is_gone)]
        if len(left) != len(self._running):
            self._running = left
            self._tell_card()

    def _advance(self, work: Work) -> None:
        if not work.is_done:
            work.write_token()
        if work.is_done:
            work.tell(None)

    def _at_work(self) -> list[Work]:
        return [work for work in self._running if not work.is_stuck]

    def _tell_card(self) -> None:
        at_work = len(self._at_work())
        self._seats.change_active(at_work - self._told_card)
        self._told_card = at_work

    def _remembered(self, prefix: Sequence[int]) -> int:
        blocks = 0
        for block in prefix:
            if block not in self._seen:
                break
            self._seen.move_to_end(block)
            blocks += 1
        return blocks * PREFIX_BLOCK_TOKENS

    def _remember(self, prefix: Sequence[int]) -> None:
        if not self._kv_token_bytes:  # a model that embeds reads each text anew, and keeps nothing of it
            return
        for block in reversed(prefix):  # the beginning of a prompt is forgotten last
            self._seen[block] = None
            self._seen.move_to_end(block)
        most = int(_PREFIX_CACHE_BYTES / (self._kv_token_bytes * PREFIX_BLOCK_TOKENS))
        while len(self._seen) > most:
            self._seen.popitem(last=False)
