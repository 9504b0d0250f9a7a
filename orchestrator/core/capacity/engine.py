"""Cards at work in the simulation: instances that read prompts and write answers step by step, and share a card.

The steps are those of the simulated engines: a step reads up to 512 tokens of prompt and gives every writing slot one
token; its time is `core/physics`', with what further slots add from `service`. Between two events all slots of an
instance write at one pace, so their tokens are counted on one counter, and nothing is done for a single token.
Knows no queue and no users; the clock is the caller's.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from orchestrator.core.capacity.service import Pool, further_slots_s
from orchestrator.core.physics import (
    PREFILL_BATCH,
    decode_step_s,
    kv_bytes_per_token,
    prefill_s,
    prompt_tokens_kept,
    share_of,
)

_SAME: Final = 1e-9  # of a token: a rounding error is no token left


@dataclass(slots=True, eq=False)
class Job:
    """One call on an instance. `prompt_left`: tokens still to be read."""

    number: int
    prompt_left: float
    answer_tokens: float
    held: float = 0.0  # tokens of its KV cache, half-way


@dataclass(slots=True, eq=False)
class CardAtWork:
    """What instances on one card share: its time, by slots at work."""

    engines: list[EngineAtWork] = field(default_factory=list)
    busy: int = 0


class EngineAtWork:
    """One instance. `is_batch_free`: further slots cost nothing but memory reads, as with the simulated engines."""

    def __init__(self, pool: Pool, card: CardAtWork, *, is_batch_free: bool = False) -> None:
        self.busy = 0
        self.ends_at_s = float("inf")  # of what it does now: the reading step, or the shortest answer
        self.version = 0  # of `ends_at_s`
        self._pool, self._card = pool, card
        self._kv_token_bytes = kv_bytes_per_token(pool.shape, pool.kv_type)
        self._further_s = [
            0.0 if is_batch_free or not slots else further_slots_s(pool, slots) for slots in range(pool.slots + 1)
        ]
        self._reading: deque[Job] = deque()
        self._step: list[tuple[Job, float]] = []  # being read in this step
        self._writing: list[tuple[float, int, Job]] = []
        self._held = 0.0
        self._written = 0.0  # tokens that each slot has written, since the beginning
        self._token_s = 0.0  # 0: nothing is written at the moment
        self._at_s = 0.0
        card.engines.append(self)

    def begin(self, job: Job, now_s: float) -> None:
        """A call takes a slot."""
        job.prompt_left = min(job.prompt_left, prompt_tokens_kept(int(job.prompt_left), self._pool.context))
        job.held = min(float(self._pool.context), job.prompt_left + job.answer_tokens / 2)
        self._advance(now_s)
        if job.prompt_left > 0:
            self._reading.append(job)
        else:
            self._write(job, job.answer_tokens)
        self._change(1, now_s)

    def finish(self, now_s: float) -> list[Job]:
        """What has ended at `ends_at_s`, which is now."""
        self._advance(now_s)
        if self._step:
            self._end_step()
        elif self._writing:
            self._written = max(self._written, self._writing[0][0])  # it is due: what is missing is a rounding error
        ended: list[Job] = []
        while self._writing and self._writing[0][0] <= self._written + _SAME:
            ended.append(heapq.heappop(self._writing)[2])
        for job in ended:
            self._held -= job.held
        self._change(-len(ended), now_s)
        return ended

    def _write(self, job: Job, tokens: float) -> None:
        self._held += job.held
        heapq.heappush(self._writing, (self._written + tokens, job.number, job))

    def _advance(self, now_s: float) -> None:
        if self._token_s:
            self._written += (now_s - self._at_s) / self._token_s
        self._at_s = now_s

    def _end_step(self) -> None:
        """Every writer has one token more, and those whose prompt is read have their first."""
        if self._writing:
            self._written += 1
        for job, tokens in self._step:
            job.prompt_left -= tokens
            if job.prompt_left <= 0:
                self._reading.remove(job)
                self._write(job, job.answer_tokens - 1)
        self._step = []

    def _change(self, more: int, now_s: float) -> None:
        """Other slots at work change the pace of the whole card."""
        self.busy += more
        self._card.busy += more
        for each in self._card.engines if more else (self,):
            each.go_on(now_s)

    def go_on(self, now_s: float) -> None:
        """What it does next, at the pace that it has from now on. A reading step that has begun keeps its time."""
        if self._step:
            return
        self._advance(now_s)
        self.version += 1
        self._token_s = 0.0
        if not self.busy:
            self.ends_at_s = float("inf")
            return
        share = share_of(self.busy, self._card.busy)
        writing = len(self._writing)
        pool = self._pool
        live = self._held * self._kv_token_bytes
        if self._reading:
            read = self._next_read()
            step_s = self._step_s(live, share, min(self.busy, writing + len(self._step)))
            self.ends_at_s = now_s + step_s + prefill_s(pool.card, pool.shape, read, share)
            return
        self._token_s = self._step_s(live, share, writing)
        self.ends_at_s = now_s + max(0.0, self._writing[0][0] - self._written) * self._token_s

    def _step_s(self, live_bytes: float, share: float, slots: int) -> float:
        pool = self._pool
        return decode_step_s(pool.card, pool.shape, live_bytes, share, slots) + self._further_s[slots] / share

    def _next_read(self) -> int:
        room = float(PREFILL_BATCH)
        for job in self._reading:
            tokens = min(room, job.prompt_left)
            if tokens <= 0:
                break
            self._step.append((job, tokens))
            room -= tokens
        return int(PREFILL_BATCH - room)
