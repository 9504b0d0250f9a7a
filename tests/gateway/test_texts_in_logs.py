"""Whatever fails, and whatever an instance says to that: no log, no metric, no file and no header has a call's text."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from orchestrator import logs
from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.core.errors import CallerError, InstanceError
from orchestrator.core.privacy import redacted
from orchestrator.settings import ClusterSettings
from orchestrator.store.embedded import server_socket
from tests.gateway import played as playing
from tests.gateway.asking import Reply, ask, body_for, get
from tests.gateway.echoing import WAYS, Echo, echoing
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import standing_in
from tests.store.playing import Server
from tests.waiting import until

MARK = "kanarya7f3a9"
PATHS = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages", "/v1/responses")
SETTINGS: dict[str, Any] = {
    "models": {"little:1b": {}, "big:8b": {}, "well:1b": {}},
    "tiers": {
        "small": {"model": "little:1b", "backup": "full", "breaker": {"at_least": 100_000}},
        "full": {"model": "big:8b", "breaker": {"at_least": 100_000}},
        "fine": {"model": "well:1b"},
    },
    "routes": {
        "auto": {"cache_paraphrases": True},
        "well": {"small": "fine", "full": "fine", "cache_paraphrases": True},
    },
    "cache": {"encryption_key": "k" * 32, "models": "all"},
    "limits": {"queue_wait_s": 0.1, "between_bytes_s": 5},
}
# A worker that logs whatever anybody has to say, at every level.
LOUD = """
import logging
told = logging.basicConfig
def loud(**more):
    told(**{**more, "level": 1})
    logging.log(1, "every level is on")
logging.basicConfig = loud
from orchestrator.app.gateway import main
main()
"""


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(paths: StatePaths, address: str, redis_url: str, index: int, workers: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", LOUD, "--state", str(paths.root), "--listen", address]
        command += ["--index", str(index), "--workers", str(workers)]
        environment = {**os.environ, "PYTHONPATH": str(playing.ROOT), "OLM_REDIS": redis_url}
        with (paths.root / f"gateway-{index}.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    monkeypatch.setattr(playing, "start_gateway", start)


@asynccontextmanager
async def watched(redis: Server) -> AsyncIterator[list[bytes]]:
    """Every command that anybody gives to Redis meanwhile."""
    reader, writer = await asyncio.open_unix_connection(str(server_socket(redis.state)))
    heard: list[bytes] = []

    async def hear() -> None:
        while line := await reader.readline():
            heard.append(line)

    writer.write(b"MONITOR\r\n")
    hearing = asyncio.create_task(hear())
    try:
        yield heard
    finally:
        writer.close()
        await hearing


async def ask_everything(world: Played, echo: Echo) -> list[Reply]:
    """Calls that fail in every way there is, each with the mark in its text."""
    replies: list[Reply] = []
    for way in WAYS:
        echo.does = way
        calls = [
            ask(world.url, path, f"{way} {MARK} {path} {stream}", model=model, stream=stream)
            for model in ("auto", "big:8b")
            for path in PATHS
            for stream in (True, False)
        ]
        replies += await asyncio.gather(*calls)
    echo.does = "400"
    return replies


async def ask_wrongly(world: Played) -> list[Reply]:
    """Calls that are refused before anybody is asked."""
    wrong: list[tuple[Any, dict[str, str]]] = [
        (f'{{"model": "big:8b", "prompt": "{MARK}', {}),
        (f'{{"model": "big:8b", "messages": "{MARK}"}}', {}),
        (json.dumps({"model": "big:8b", "messages": [{"role": MARK, "content": {MARK: 1}}]}), {}),
        (json.dumps({"model": "big:8b", "messages": [{"role": "user", "content": [{"type": MARK}]}]}), {}),
        (json.dumps(body_for("/api/chat", MARK, "auto")), {"X-Priority": MARK}),
        (json.dumps(body_for("/api/chat", MARK, "auto")), {"X-Queue-Timeout": MARK}),
        (json.dumps(body_for("/api/chat", MARK, "auto")), {"X-Privacy": MARK}),
        (json.dumps(body_for("/api/chat", MARK, "auto")), {"Cache-Control": MARK}),
        (json.dumps(body_for("/api/chat", MARK, "auto")), {"Content-Encoding": "gzip"}),
        (json.dumps({**body_for("/api/chat", MARK, "auto"), "options": {"num_ctx": MARK}}), {}),
        (json.dumps({**body_for("/api/chat", MARK, "auto"), "tools": MARK, "format": MARK}), {}),
    ]
    replies: list[Reply] = []
    async with aiohttp.ClientSession() as http:
        for path in PATHS:
            for body, headers in wrong:
                sent = {"Content-Type": "application/json", **headers}
                async with http.post(world.url + path, data=body.encode(), headers=sent) as reply:
                    replies.append(Reply(reply.status, reply.headers, await reply.read()))
    return replies


def marked(texts: Iterator[tuple[str, bytes]]) -> list[str]:
    return [name for name, text in texts if MARK.encode() in text.lower()]


def files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


async def values_of(world: Played) -> AsyncIterator[tuple[str, bytes]]:
    """All that is in Redis."""
    for key in await world.connection.command("KEYS", "*"):
        kind = (await world.connection.command("TYPE", key)).decode()
        read = {
            "string": ("GET", key),
            "hash": ("HGETALL", key),
            "zset": ("ZRANGE", key, 0, -1),
            "set": ("SMEMBERS", key),
            "list": ("LRANGE", key, 0, -1),
            "stream": ("XRANGE", key, "-", "+"),
        }[kind]
        yield key.decode(), key + b" " + repr(await world.connection.command(*read)).encode()


@pytest.mark.timeout(180)
async def test_a_text_stands_nowhere_but_in_its_answer(tmp_path, redis, loud):
    settings = ClusterSettings.model_validate(SETTINGS)
    async with standing_in(1) as (well,), echoing() as echo:
        pools = [
            pool_of(name, [each.port], slots=32)
            for name, each in zip(SETTINGS["models"], (echo, echo, well), strict=True)
        ]
        async with played(tmp_path, settings, pools, redis=redis) as world, watched(redis) as commands:
            replies = await ask_everything(world, echo) + await ask_wrongly(world)
            for model in ("auto", "well"):  # one is made, the others follow; one is kept, and given to other words
                same = [ask(world.url, "/api/chat", f"Kaç {MARK} var?", model=model, stream=True) for _ in range(4)]
                replies += await asyncio.gather(*same)
            replies.append(await ask(world.url, "/api/chat", f"kac {MARK} var", model="well", stream=True))
            pages = [(path, (await get(world.url, path)).body) for path in ("/metrics", "/status.json", "/status")]
            kept = [each async for each in values_of(world)]
        told = world.logs()
        assert echo.asked > 100
        assert {200, 400, 502, 503} <= {each.status for each in replies}
        assert "out of memory" in told, "logs say what failed"
        assert "every level is on" in told
        assert marked((f"{each.status}", repr(dict(each.headers)).encode()) for each in replies) == []
        assert marked(iter(pages)) == []
        assert marked(iter(kept)) == []
        assert marked((each.decode("latin-1")[:200], each) for each in commands) == []
        assert marked(files_of(world.state)) == []
        assert len(commands) > 500


async def test_without_a_seal_texts_are_in_kept_answers_and_in_questions_kept_for_other_words_alone(tmp_path, redis):
    unsealed = {**SETTINGS, "cache": {"models": "all"}}
    async with standing_in(2) as (little, big):
        pools = [pool_of("little:1b", [little.port]), pool_of("big:8b", [big.port]), pool_of("well:1b", [big.port])]
        settings = ClusterSettings.model_validate(unsealed)
        async with played(tmp_path, settings, pools, redis=redis) as world:
            for stream in (True, False):
                await ask(world.url, "/api/chat", f"Kediler neden {MARK} der?", model="auto", stream=stream)
            await until(lambda: world.connection.command("KEYS", "olm:answers:*"))
            kept = [each async for each in values_of(world)]
    assert {each.rpartition(":")[0] for each in marked(iter(kept))} <= {"olm:paraphrase:auto"}


@pytest.mark.parametrize("texts", ["off", "redacted"])
async def test_what_an_instance_says_is_logged_only_where_that_is_switched_on_and_then_redacted(tmp_path, redis, texts):
    settings = ClusterSettings.model_validate({**SETTINGS, "logs": {"texts": texts}})
    async with echoing() as echo:
        pools = [pool_of(name, [echo.port]) for name in SETTINGS["models"]]
        async with played(tmp_path, settings, pools, redis=redis) as world:
            text = f"{MARK} ali@example.com TR33 0006 1005 1978 6457 8413 26"
            reply = await ask(world.url, "/api/chat", text, model="big:8b", stream=False)
            assert reply.status == 502
            assert MARK in reply.body.decode(), "its own caller reads all of it"
            told = world.logs()
            assert "ali@example.com" not in told
            assert "TR33" not in told
            assert (f"{MARK} [e-mail] [iban]" in told) is (texts == "redacted")
            # And it is live.
            other = ClusterSettings.model_validate(
                {**SETTINGS, "logs": {"texts": {"off": "redacted"}.get(texts, "off")}}
            )
            settings_in_use.write(StatePaths(world.state), other)
            world.gateways[0].send_signal(1)
            await until(lambda: "settings taken over" in world.logs())
            before = len(world.logs())
            await ask(world.url, "/api/chat", f"again {text}", model="big:8b", stream=False)
            assert (f"again {MARK} [e-mail] [iban]" in world.logs()[before:]) is (texts == "off")


# --- lines of a log --------------------------------------------------------------------------------------------------


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged meanwhile, as a gateway's log has it."""
    heard: list[str] = []

    class Hearing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(self.format(record))

    before, hearing = logging.getLogRecordFactory(), Hearing()
    logging.setLogRecordFactory(logs.careful_record)
    logging.getLogger("canary").addHandler(hearing)
    logging.getLogger("asyncio").addHandler(hearing)
    try:
        yield heard
    finally:
        logging.getLogger("canary").removeHandler(hearing)
        logging.getLogger("asyncio").removeHandler(hearing)
        logging.setLogRecordFactory(before)
        logs.texts_in_logs(None)


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [
        ValueError(MARK),
        KeyError(MARK),
        UnicodeEncodeError("utf-8", MARK, 0, 1, MARK),
        InstanceError("gpu-1", "answered 500", quoted=MARK),
        CallerError(400, MARK),
        ExceptionGroup(MARK, [ValueError(MARK)]),
    ],
)
def test_an_error_in_a_log_says_its_kind_and_its_place_and_not_its_words(lines, error):
    log = logging.getLogger("canary")
    try:
        fail(error)
    except type(error) as why:
        log.exception("%s: a mistake of ours", "id-1")
        log.warning("%s: %s", "id-1", why)
        log.warning(why)
    assert len(lines) == 3
    assert lines[0].startswith("id-1: a mistake of ours\n")
    assert "in fail\n" in lines[0]
    assert type(error).__name__ in lines[0]
    assert MARK not in "".join(lines)


async def test_what_the_loop_says_of_forgotten_tasks_has_no_words_of_theirs(lines):
    task = asyncio.get_running_loop().create_task(_failing(MARK), name="forgotten")
    await asyncio.wait([task])
    del task
    await until(lambda: lines)
    assert lines[0].startswith("Task exception was never retrieved\n")
    assert "in _failing\n" in lines[0]
    assert MARK not in "".join(lines)


async def _failing(text: str) -> None:
    raise ValueError(text)


def test_texts_that_are_switched_on_are_redacted(lines):
    logs.texts_in_logs(redacted)
    logging.getLogger("canary").warning("%s", InstanceError("gpu-1", "answered 500", quoted="mail ali@example.com"))
    assert lines == ["gpu-1: answered 500: in words that may be a caller's (mail [e-mail])"]


# --- lines that are not there yet -------------------------------------------------------------------------------------

# What an error or a call has of its texts: an error itself may be logged, which knows what of it is fit for that.
UNFIT = {"message", "quoted", "body", "raw", "text", "texts", "args", "question", "prompt", "said"}
TALKING = [*playing.ROOT.glob("orchestrator/gateway/*.py"), *playing.ROOT.glob("orchestrator/store/*.py")]


def logged(module: Path) -> Iterator[ast.Call]:
    """Every line that a module may write into its log."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log"))):
                yield node


def is_unfit(node: ast.AST) -> bool:
    match node:
        case ast.JoinedStr() | ast.Call(func=ast.Name(id="str" | "repr")):
            return True
        case ast.Attribute(attr=name):
            return name in UNFIT
    return False


def test_no_line_of_a_log_takes_an_errors_words_out_of_it():
    lines = [(module.name, line) for module in TALKING for line in logged(module)]
    assert len(lines) > 30
    unfit = [
        f"{name}:{line.lineno}: give the error itself as an argument"
        for name, line in lines
        if any(is_unfit(node) for each in line.args for node in ast.walk(each))
    ]
    assert unfit == []
