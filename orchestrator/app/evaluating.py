"""One set asked of several targets through the cluster's own endpoint, behind everybody else's calls.

What is answered is written down at once, a line each: who goes on later asks only what is missing. What an answer is
worth is `core.evaluation`'s to say, but where a judge is needed: it is a target that is asked like the others.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from pydantic import TypeAdapter, ValidationError

from orchestrator.app.questions import CONNECT_TIMEOUT_S, NobodyAnswersError, own_words, reason
from orchestrator.core.errors import HostError
from orchestrator.core.evaluation.grading import grade
from orchestrator.core.evaluation.questions import Question, Scorer, SetError, read_set
from orchestrator.core.evaluation.report import Outcome, Unasked

LAST_IN_QUEUE = "9"  # of the classes 0 to 9
REPLAY = "X-Replay"  # its calls say nothing of what users ask
TIER = "X-Tier"  # the one that is to answer
PRIVACY = "X-Privacy"  # the class that a call was found to have
PATIENCE_S = 300.0  # a question that is told to come back comes back, for so long
RESAMPLES, SEED = 400, 1

_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S)
_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)
_VERDICT = {"type": "object", "properties": {"right": {"type": "boolean"}}, "required": ["right"]}
_JUDGE = (
    "You grade answers. Question:\n{prompt}\n\nReference answer:\n{reference}\n\nAnswer to grade:\n{text}\n\n"
    'Is the answer right, judged by the reference alone? Reply with JSON: {{"right": true}} or {{"right": false}}.'
)


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for. `is_route`: it chooses a tier, and says which; `tier`: which one it has to be."""

    name: str
    model: str
    is_route: bool = False
    tier: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """What its calls say beside what all of an evaluation's do."""
        return {TIER: self.tier} if self.tier else {}


@dataclass(frozen=True, slots=True)
class Asking:
    """How the endpoint is asked. `tokens`: an answer's most; None: as many as it takes."""

    endpoint: str
    key: str = ""
    at_once: int = 4
    tokens: int | None = None
    judge: str = ""  # the model that grades what no rule can


class PrivateError(HostError):
    """The gateway keeps a call from everybody that could answer it, for what stands in it: of the class `privacy`."""

    def __init__(self, privacy: str, words: str) -> None:
        super().__init__(words)
        self.privacy = privacy


def questions_in(path: Path) -> tuple[Question, ...]:
    """Raises SetError."""
    try:
        return read_set(path.read_text(encoding="utf-8").splitlines(), str(path))
    except OSError as why:
        raise SetError(f"{path}: {why.strerror}") from why
    except UnicodeDecodeError as why:
        raise SetError(f"{path}: is not UTF-8: {why.reason}") from why


def resamples(count: int) -> list[list[int]]:
    """Places drawn with replacement, the same at each run."""
    drawn = random.Random(SEED)  # noqa: S311 (no secret)
    return [drawn.choices(range(count), k=count) for _ in range(RESAMPLES)]


def recorded(path: Path) -> list[Outcome]:
    """What an earlier run has written. A last line that it was killed in the middle of is asked again."""
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    if rest:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - len(rest))
    try:
        return [_OUTCOME.validate_json(line) for line in lines]
    except ValidationError as why:
        raise SetError(f"{path}: is not what an earlier run has written; name another --out") from why


async def evaluate(
    questions: Sequence[Question],
    targets: Sequence[Target],
    asking: Asking,
    out: Path,
    on_outcome: Callable[[Outcome | Unasked, int], None],
) -> list[Outcome]:
    """Ask what `out` has no outcome of. `on_outcome` gets each, and how many are still to come.

    What a target, or the judge of its answer, may not see is told to `on_outcome` alone: a further run tries it again,
    by the settings of then.
    Raises SetError, HostError where a call is refused for another reason, NobodyAnswersError; what was answered is in
    `out` then.
    """
    if not asking.judge and (judged := [each.id for each in questions if each.scorer is Scorer.JUDGE]):
        raise SetError(f"{judged[0]} needs a judge; name one with --judge MODEL")
    pairs = {(question.id, target.name): (question, target) for question in questions for target in targets}
    told = []
    for each in recorded(out):
        known = pairs.get((each.question, each.target))
        if known is not None and each.asked == _digest(*known):
            told.append(each)
            del pairs[each.question, each.target]
    left = len(pairs)
    at_once = asyncio.Semaphore(asking.at_once)
    headers = {"X-Priority": LAST_IN_QUEUE, "Cache-Control": "no-store", REPLAY: "1"}
    if asking.key:
        headers["Authorization"] = f"Bearer {asking.key}"
    async with aiohttp.ClientSession(headers=headers, timeout=_TIMEOUT) as http:

        async def one(question: Question, target: Target) -> None:
            nonlocal left
            async with at_once:
                outcome = await _outcome(http, asking, question, target)
            if isinstance(outcome, Outcome):
                with out.open("ab") as file:
                    file.write(orjson.dumps(asdict(outcome), option=orjson.OPT_APPEND_NEWLINE))
                told.append(outcome)
            left -= 1
            on_outcome(outcome, left)

        try:
            async with asyncio.TaskGroup() as group:
                for question, target in pairs.values():
                    group.create_task(one(question, target))
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from several
    return told


async def _outcome(
    http: aiohttp.ClientSession, asking: Asking, question: Question, target: Target
) -> Outcome | Unasked:
    system = [{"role": "system", "content": question.system}] if question.system else []
    body: dict[str, Any] = {"messages": [*system, {"role": "user", "content": question.prompt}]}
    if question.scorer is Scorer.JSON_SCHEMA:
        body["format"] = question.schema
    began_s = time.perf_counter()
    try:
        told, headers, waited_s = await _asked(http, asking, question, target, body, asking.tokens)
    except PrivateError as why:
        return Unasked(question.id, target.name, why.privacy, str(why))
    seconds = time.perf_counter() - began_s - waited_s
    text = told["message"]["content"]
    try:
        is_right = await _is_right(http, asking, question, text)
    except PrivateError as why:
        return Unasked(question.id, target.name, why.privacy, str(why), judge=asking.judge)
    return Outcome(
        question=question.id,
        target=target.name,
        is_right=is_right,
        seconds=seconds,
        prompt_tokens=told.get("prompt_eval_count", 0),
        completion_tokens=told.get("eval_count", 0),
        chosen=headers.get("X-Tier", "") if target.is_route else "",
        model=told.get("model", ""),
        text=text,
        is_simulated="X-Simulated" in headers,
        asked=_digest(question, target),
    )


def _digest(question: Question, target: Target) -> str:
    asked = orjson.dumps([asdict(question), target.model], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(asked, digest_size=8).hexdigest()


async def _is_right(http: aiohttp.ClientSession, asking: Asking, question: Question, text: str) -> bool:
    """Raises SetError, HostError; PrivateError where the judge may not see it."""
    if question.scorer is not Scorer.JUDGE:
        try:
            return grade(question, text)
        except ValueError as why:
            raise SetError(str(why)) from why
    asked = _JUDGE.format(prompt=question.prompt, reference="\n".join(question.answer), text=text)
    body = {"messages": [{"role": "user", "content": asked}], "format": _VERDICT}
    judge = Target(f"the judge {asking.judge}", asking.judge)
    told, _, _ = await _asked(http, asking, question, judge, body, None)
    try:
        return bool(orjson.loads(told["message"]["content"])["right"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise HostError(f"the judge {asking.judge} did not answer as asked about {question.id}") from None


async def _asked(
    http: aiohttp.ClientSession,
    asking: Asking,
    question: Question,
    target: Target,
    body: Mapping[str, Any],
    tokens: int | None,
) -> tuple[dict[str, Any], Mapping[str, str], float]:
    """`_chat`; what it raises names the question and who was asked."""
    try:
        return await _chat(http, asking, target, body, tokens)
    except PrivateError:
        raise
    except HostError as why:
        raise type(why)(f"{question.id}, asked of {target.name}: {why}") from why


async def _chat(
    http: aiohttp.ClientSession, asking: Asking, target: Target, body: Mapping[str, Any], tokens: int | None
) -> tuple[dict[str, Any], Mapping[str, str], float]:
    """Answer, headers, and for how many seconds it was told to come back later, which is no time of the target's."""
    options: dict[str, Any] = {"temperature": 0, **({"num_predict": tokens} if tokens else {})}
    asked = orjson.dumps({"model": target.model, "stream": False, "options": options, **body})
    url, waited_s = f"http://{asking.endpoint}/api/chat", 0.0
    while True:
        try:
            async with http.post(url, data=asked, headers=target.headers) as reply:
                raw = await reply.read()
                if reply.status == 200:
                    told: dict[str, Any] = orjson.loads(raw)
                    return told, reply.headers, waited_s
                if reply.status == 403 and (privacy := reply.headers.get(PRIVACY)):
                    raise PrivateError(privacy, own_words(raw))
                later_s = _later_s(reply)
                if later_s is None or waited_s + later_s > PATIENCE_S:
                    raise HostError(f"{asking.endpoint} answered {reply.status}: {own_words(raw)}")
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as why:
            raise NobodyAnswersError(f"{asking.endpoint} does not answer: {reason(why)}") from why
        began_s = time.perf_counter()
        await asyncio.sleep(later_s)
        waited_s += time.perf_counter() - began_s


def _later_s(reply: aiohttp.ClientResponse) -> float | None:
    """When whoever has no room now may be asked again; None: it does not say."""
    told = reply.headers.get("Retry-After", "")
    return float(told) if reply.status in (429, 503) and told.isascii() and told.isdigit() else None
