"""An instance whose answers are sure or unsure as a test's question says, token by token, with log probabilities."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from orchestrator.core.dialects.frames import Stats, body_type, head_of
from orchestrator.core.dialects.streams import answer_body, open_stream
from orchestrator.core.model import Answer, Finish, ToolCall
from tests.gateway.stand_in import Asked, StandIn, _chunk, _respond, _stream_head, standing
from tests.waiting import until

SURE, UNSURE = -0.02, -4.0
# Every answer is told at this moment, so that two of them are the same bytes.
NOW = datetime(2026, 1, 1, tzinfo=UTC)
COUNTS = Stats(total_ns=9, prompt_tokens=7, completion_tokens=3)


class Plan(NamedTuple):
    """What is said: words and how likely each was. `wait_at`: the gate stands before that word; `cut_at`: it dies."""

    words: Sequence[tuple[str, float]]
    finish: Finish = Finish.STOP
    tools: int = 0
    wait_at: int | None = None
    cut_at: int | None = None


def said(text: str, logprob: float, **more: Any) -> Plan:
    """That text, a word each token."""
    return Plan([(f"{word} ", logprob) for word in text.split()], **more)


PLANS = {
    "sure": said("all of this is quite certain", SURE),
    "unsure": said("none of this is at all certain", UNSURE),
    "later": Plan(
        [*((f"sure{n} ", SURE) for n in range(4)), *((f"doubtful{n} ", UNSURE) for n in range(6))], wait_at=4
    ),
    "refuse": said("I'm sorry, but I can't help with that.", SURE),
    "long": said("it goes on and on and", SURE, finish=Finish.LENGTH),
    "json": Plan([('{"n": 1}', SURE)]),
    "no-json": said("the number is one", SURE),
    "one-tool": Plan((), Finish.TOOL_CALLS, tools=1),
    "two-tools": Plan((), Finish.TOOL_CALLS, tools=2),
    "slow": said("it takes its time to say anything", SURE, wait_at=1),
    "silent": said("nothing comes for long", SURE, wait_at=0),
    "slow-unsure": said("it takes its time and is unsure", UNSURE, wait_at=1),
    "dies": said("this one does not come to its end", SURE, cut_at=2),
}


@dataclass(slots=True)
class Judged(StandIn):
    """`plans`: what is said where the question begins with that word. `tells`: it knows what log probabilities are.

    `refuses`: it answers 400. `ends_lines`: its last frame has its line's end.
    """

    plans: dict[str, Plan] = field(default_factory=lambda: dict(PLANS))
    default: str = "sure"
    tells: bool = True
    refuses: bool = False
    ends_lines: bool = True

    async def _behave(self, asked: Asked) -> None:
        if self.refuses:
            await _respond(asked, 400, "application/json", b'{"error":"invalid image input"}')
            return
        word = asked.text.split(" ")[0]
        plan = self.plans.get(word, self.plans[self.default])
        is_told = self.tells and bool(asked.body.get("logprobs"))
        if asked.call.is_stream:
            await self._stream(asked, plan, is_told)
        else:
            await self._whole(asked, plan, is_told)
        await asked.writer.drain()

    async def _stream(self, asked: Asked, plan: Plan, is_told: bool) -> None:
        if plan.wait_at == 0:
            await self.gate.wait()
        await _stream_head(asked)
        stream = open_stream(head_of(asked.call, asked.call.model, NOW, 7))
        for n, (word, logprob) in enumerate(plan.words):
            if n == plan.cut_at:
                asked.writer.close()
                return
            if n == plan.wait_at:
                await self.gate.wait()
            entries = [_entry(word, logprob)] if is_told else []
            for frame in stream.content(NOW, text=word, logprobs=entries):
                await _chunk(self, asked, frame)
        for n in range(plan.tools):
            for frame in stream.content(NOW, tool_calls=[_tool(n)]):
                await _chunk(self, asked, frame)
        *ends, last = stream.end(NOW, "stop" if plan.tools else plan.finish, COUNTS)
        for frame in (*ends, last if self.ends_lines else last.rstrip()):
            await _chunk(self, asked, frame)
        asked.writer.write(b"0\r\n\r\n")
        self.whole += 1

    async def _whole(self, asked: Asked, plan: Plan, is_told: bool) -> None:
        if plan.wait_at is not None:
            await self.gate.wait()
        entries = [_entry(*each) for each in plan.words] if is_told else []
        answer = Answer("".join(word for word, _ in plan.words), tool_calls=tuple(map(_tool, range(plan.tools))))
        head = head_of(asked.call, asked.call.model, NOW, 7)
        body = answer_body(head, NOW, answer, plan.finish, COUNTS, logprobs=entries)
        await _respond(asked, 200, body_type(asked.call.endpoint), body)


def _entry(word: str, logprob: float) -> dict[str, Any]:
    return {"token": word, "logprob": logprob, "bytes": list(word.encode())}


def _tool(n: int) -> ToolCall:
    return ToolCall(f"call_{n}", "send_mail", {"to": f"ops{n}"})


@asynccontextmanager
async def judged(count: int) -> AsyncIterator[list[Judged]]:
    """So many of them, gone at the end."""
    async with standing(Judged() for _ in range(count)) as instances:
        yield instances


async def until_asked(instance: Judged, times: int) -> None:
    """Wait until it was asked so often."""
    await until(lambda: len(instance.asked) >= times)
