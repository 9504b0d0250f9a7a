"""A calibration of one tier's own answers: a set of questions asked of it, and how sure it was of what was right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import aiohttp
import orjson

from orchestrator.app.evaluating import LAST_IN_QUEUE, REPLAY, Asking, Target
from orchestrator.app.questions import CONNECT_TIMEOUT_S, NobodyAnswersError, own_words, reason
from orchestrator.core.errors import HostError, OrchestratorError
from orchestrator.core.evaluation.grading import grade
from orchestrator.core.evaluation.questions import Question, Scorer, SetError

# Below this a curve is mostly chance: its blocks have some ten answers each.
FEWEST = 100

_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S)


class CalibrationError(OrchestratorError):
    """No calibration comes of it; the text says why."""


class Answered(NamedTuple):
    """One answer's log probabilities, token by token, and whether it was right."""

    logprobs: tuple[float, ...]
    is_right: bool


async def answered(
    questions: Sequence[Question], target: Target, asking: Asking, on_answer: Callable[[], None]
) -> list[Answered]:
    """Ask the target every question that can be graded by rule. Raises SetError, HostError, NobodyAnswersError."""
    if judged := [each.id for each in questions if each.scorer is Scorer.JUDGE]:
        raise SetError(f"{judged[0]} needs a judge; only what can be graded by rule makes a calibration")
    at_once = asyncio.Semaphore(asking.at_once)
    headers = {"X-Priority": LAST_IN_QUEUE, "Cache-Control": "no-store", REPLAY: "1"}
    if asking.key:
        headers["Authorization"] = f"Bearer {asking.key}"
    async with aiohttp.ClientSession(headers=headers, timeout=_TIMEOUT) as http:

        async def one(question: Question) -> Answered:
            async with at_once:
                found = await _answer(http, asking, question, target)
            on_answer()
            return found

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(each)) for each in questions]
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from several
    return [each.result() for each in tasks]


async def _answer(http: aiohttp.ClientSession, asking: Asking, question: Question, target: Target) -> Answered:
    system = [{"role": "system", "content": question.system}] if question.system else []
    body: dict[str, Any] = {
        "model": target.model,
        "messages": [*system, {"role": "user", "content": question.prompt}],
        "stream": False,
        "logprobs": True,
        "options": {"temperature": 0, **({"num_predict": asking.tokens} if asking.tokens else {})},
    }
    if question.scorer is Scorer.JSON_SCHEMA:
        body["format"] = question.schema
    try:
        url = f"http://{asking.endpoint}/api/chat"
        async with http.post(url, data=orjson.dumps(body), headers=target.headers) as reply:
            raw = await reply.read()
            if reply.status != 200:
                raise HostError(f"{asking.endpoint} answered {reply.status}: {own_words(raw)}")
            said = orjson.loads(raw)
    except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as why:
        raise NobodyAnswersError(f"{asking.endpoint} does not answer: {reason(why)}") from why
    tokens = said.get("logprobs")
    if not tokens:
        raise CalibrationError(f"{target.name} tells no log probabilities: its engine is too old (Ollama: 0.12.11)")
    return Answered(tuple(each["logprob"] for each in tokens), grade(question, said["message"]["content"]))
