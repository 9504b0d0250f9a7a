"""The program that keeps instances on a host (`onhost/keeps.py`), sent and spoken to over one connection.

Requests are numbered, so they may be under way side by side; what changed on the host comes between the answers.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import asyncssh
import orjson

from orchestrator.nodes.probe import module_texts
from orchestrator.nodes.remote_probe import ended
from orchestrator.nodes.sending import program_on
from orchestrator.nodes.ssh import SshError, SshHost
from orchestrator.nodes.systemd_looks import News, read_news

STEP = "units"
# A request that says nothing shows each so often that both sides are there; a cut cable tells neither of them.
PING_EVERY_S, PONG_WITHIN_S = 5.0, 10.0
_PACKAGE = "orchestrator.nodes.onhost"
_KEEPS = f"{_PACKAGE}.keeps"


class Link:
    """One running program."""

    def __init__(self, host: SshHost, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self.host = host
        self._process = process
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}

    async def ask(self, verb: str, wait_s: float, **about: Any) -> Any:
        """The answer. Raises SshError: what the host says, the connection's end, or `wait_s` without an answer."""
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        what = " ".join((verb, str(about["instance"]))) if "instance" in about else verb
        try:
            self._process.stdin.write(orjson.dumps({"id": number, "verb": verb, **about}) + b"\n")
            async with asyncio.timeout(wait_s):
                return await answer
        except TimeoutError as error:
            raise SshError(self.host.node, STEP, f"{what}: no answer within {wait_s:g} s") from error
        except (asyncssh.Error, OSError) as error:
            raise SshError(self.host.node, STEP, f"{what}: the connection was lost") from error
        finally:
            del self._asked[number]

    async def run(self, on_news: Callable[[News], None]) -> None:
        """Take in what it says; `on_news` is called for what it tells unasked, first for all that is there.

        Ends by SshError alone, as does everything that was asked and not answered.
        """
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._ping(), name=f"{self.host.node} ping")
                both.create_task(self._read(on_news), name=f"{self.host.node} units")
        except BaseExceptionGroup as several:
            raise _first(several) from several
        finally:
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(SshError(self.host.node, STEP, "the connection was lost"))

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_EVERY_S)
            try:
                await self.ask("ping", PONG_WITHIN_S)
            except SshError as error:
                raise SshError(self.host.node, STEP, f"the host was silent for {PONG_WITHIN_S:g} s") from error

    async def _read(self, on_news: Callable[[News], None]) -> None:
        while (line := await self._process.stdout.readline()).endswith(b"\n"):
            try:
                message = orjson.loads(line)
                self._take(message, on_news)
            except (ValueError, LookupError, TypeError) as error:
                said = line[:200].decode(errors="replace").strip()
                raise SshError(self.host.node, STEP, f"{STEP}: what the host printed is no answer: {said}") from error
        complaint = (await self._process.stderr.read()).decode(errors="replace").strip()
        await self._process.wait_closed()
        if self._process.exit_status is None:
            raise SshError(self.host.node, STEP, "the connection was lost")
        raise ended(self.host, STEP, self._process.exit_status, complaint)

    def _take(self, message: Mapping[str, Any], on_news: Callable[[News], None]) -> None:
        if "looks" in message:
            on_news(read_news(message))
            return
        if "problem" in message:
            raise SshError(self.host.node, STEP, message["problem"])
        answer = self._asked.get(message["id"])
        if answer is None or answer.done():  # whoever asked has given up
            return
        if "error" in message:
            answer.set_exception(SshError(self.host.node, STEP, message["error"]))
        else:
            answer.set_result(message["answer"])


@asynccontextmanager
async def linked(host: SshHost, known: Mapping[str, Mapping[str, Any]]) -> AsyncIterator[Link]:
    """The program, for as long as the block runs. `known`: the units as they were seen last. Raises SshError."""
    async with program_on(host, {"main": _KEEPS, "known": known, _KEEPS: _modules()}, step=STEP) as process:
        yield Link(host, process)


@cache
def _modules() -> list[tuple[str, str]]:
    """Each after those that it imports itself."""
    names = ("host", "ollamas", "groups", "units", "changes", "keeps")
    return module_texts(
        "orchestrator",
        "orchestrator.whole_file",
        "orchestrator.nodes",
        _PACKAGE,
        *(f"{_PACKAGE}.{each}" for each in names),
    )


def _first(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """What the first of the tasks failed of; the others were cancelled for it."""
    found = several.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
