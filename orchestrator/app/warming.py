"""Questions asked before anybody asks them, so that their answers are in the cache: a file of them, a few at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from orchestrator.app.questions import CONNECT_TIMEOUT_S, NobodyAnswersError, reason
from orchestrator.core.errors import HostError

# A call of a file is as long as a prompt may be; a line of it that is no JSON is a question.
_PATH = "/api/chat"


def read_questions(path: Path, model: str) -> list[dict[str, Any]]:
    """Calls of Ollama's chat: of `.jsonl` a body a line, of any other file a question a line. Raises HostError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as why:
        raise HostError(f"{path} cannot be read: {why}") from why
    is_json = path.suffix == ".jsonl"
    calls = [
        _body(line, f"{path}:{number}", model) if is_json else _question(line, model)
        for number, line in enumerate(lines, 1)
        if line.strip() and not (line.startswith("#") and not is_json)
    ]
    if not calls:
        raise HostError(f"{path} has no question; write one a line")
    return calls


def _question(line: str, model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": line.strip()}]}


def _body(line: str, where: str, model: str) -> dict[str, Any]:
    try:
        body = orjson.loads(line)
    except orjson.JSONDecodeError as why:
        raise HostError(f"{where}: not JSON: {why}") from why
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        raise HostError(f"{where}: the body of a chat is wanted, an object with `messages`")
    return {"model": model, **body}


async def warm(endpoint: str, calls: Sequence[Mapping[str, Any]], *, key: str, tags: str, at_once: int) -> Counter[str]:
    """Ask them all; answers how many were hit, faq, miss (kept from now on), bypass, off, or failed (with why)."""
    seen: Counter[str] = Counter()
    waiting = iter(calls)

    async with _session(key, tags) as http:

        async def go_on() -> None:
            for call in waiting:
                seen[await _ask(http, endpoint, {**call, "stream": False})] += 1

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(at_once, len(calls))):
                    group.create_task(go_on())
        except ExceptionGroup as failed:  # nobody answers: one of them says so for all
            raise failed.exceptions[0] from failed
    return seen


@asynccontextmanager
async def _session(key: str, tags: str) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers |= {"X-Cache-Tags": tags} if tags else {}
    # Behind those who wait for their answers.
    headers["X-Priority"] = "9"
    timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
        yield http


async def _ask(http: aiohttp.ClientSession, endpoint: str, body: Mapping[str, Any]) -> str:
    try:
        async with http.post(f"http://{endpoint}{_PATH}", data=orjson.dumps(body)) as reply:
            await reply.read()
            if reply.status != 200:
                return f"failed: {reply.status}"
            return reply.headers.get("X-Cache", "").partition(";")[0]
    except aiohttp.ClientConnectorError as why:
        raise NobodyAnswersError(f"{endpoint} does not answer: {reason(why)}; is `ollamactl up` running?") from why
    except (aiohttp.ClientError, TimeoutError) as why:
        return f"failed: {reason(why)}"
