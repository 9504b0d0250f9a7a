"""What a running supervisor does about new code when it is asked to: become it, have its workers succeeded and its
Redis exchanged.

Asked over the keeper's socket, by `ollamactl upgrade`, which sees to the order of things.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from orchestrator.app.own_redis import start_anew
from orchestrator.app.workers import Workers
from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper_units import Request

# What the processes of a cluster are: none of them is to fail to start once the first has become new code.
_EVERYTHING = "import orchestrator.cli.up, orchestrator.app.gateway, orchestrator.app.controller"
# A Python that starts on a machine that is busy.
TRIED_WITHIN_S = 60.0


class Renewing:
    """`times`: how often this process has become another program; `stop`: ends what it does now."""

    def __init__(self, build: str, times: int, stop: Callable[[], None]) -> None:
        self._build, self.times, self._stop = build, times, stop
        self._workers: Workers | None = None
        self._at_work = asyncio.Lock()
        self._step = ""
        self.program = ""  # what this process becomes
        self.verbs: Mapping[str, Callable[[Request], Awaitable[dict[str, Any]]]] = {
            "about": self._about,
            "renew": self._renew,
            "roll": self._roll,
            "redis": self._exchange_redis,
        }

    def began(self, workers: Workers) -> None:
        """The cluster answers."""
        self._workers = workers

    async def _about(self, _: Request) -> dict[str, Any]:
        is_ready = self._workers is not None
        return {"build": self._build, "times": self.times, "is_ready": is_ready, "step": self._step}

    async def _renew(self, request: Request) -> dict[str, Any]:
        """Become the program named, where it can run at all. Raises HostError."""
        self._ready()
        async with self._alone():
            await _try(request.program)
            self.program = request.program
            self._stop()
        return {}

    async def _roll(self, request: Request) -> dict[str, Any]:
        """Have every worker succeeded. Raises HostError."""
        workers = self._ready()
        async with self._alone():
            try:
                await workers.roll(request.drain_s, self._tell)
            finally:
                self._tell("")
        return {}

    async def _exchange_redis(self, _: Request) -> dict[str, Any]:
        """Have Redis followed by the program on disk. Raises HostError."""
        workers = self._ready()
        async with self._alone():
            await start_anew(workers.keeper, workers.paths.root)
        return {}

    def _ready(self) -> Workers:
        if self._workers is None:
            raise HostError("the cluster is being started; upgrade it once it answers")
        return self._workers

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One request at a time, and none after this process was told to become another program. Raises HostError."""
        if self._at_work.locked() or self.program:
            raise HostError("another `ollamactl upgrade` is at work at this moment; wait for it")
        async with self._at_work:
            yield

    def _tell(self, step: str) -> None:
        self._step = step


async def _try(program: str) -> None:
    """Raise HostError where a supervisor that became this program would not get far."""
    argv = (program, "-P", "-c", _EVERYTHING)
    if not Path(program).is_absolute():
        raise HostError(f"{program!r}: not the whole path of a Python")
    try:
        tried = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as why:
        raise HostError(f"{program} cannot be run: {why.strerror}") from why
    try:
        async with asyncio.timeout(TRIED_WITHIN_S):
            said, _ = await tried.communicate()
    except TimeoutError as why:
        tried.kill()
        await tried.wait()
        raise HostError(f"{program} did not start within {TRIED_WITHIN_S:g} s; nothing was changed") from why
    if tried.returncode != 0:
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise HostError(f"the program on disk does not start, nothing was changed: {last}")
