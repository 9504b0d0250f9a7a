"""What the doctor asks of processes on this machine and of engines over HTTP, beyond what the fleet asks of them.

Another user's process tells nothing to one who is not root: what cannot be read is None.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import psutil

from orchestrator.core.doctor import Clock, Loaded, OllamaProcess
from orchestrator.core.model import Instance, OllamaServer
from orchestrator.nodes.given_api import GivenApi

# HTTP's Date has whole seconds, cut off.
DATE_WITHIN_S = 1.0


def ollama_process(found: OllamaServer) -> OllamaProcess | None:
    """Its environment and where it listens; None for one that has ended since. Blocks."""
    try:
        process = psutil.Process(found.pid)
        return OllamaProcess(found.pid, found.is_ours, found.unit, _environment(process), _listens(process))
    except psutil.NoSuchProcess:
        return None


def _environment(process: psutil.Process) -> Mapping[str, str] | None:
    """Only what is Ollama's own: the rest may be secrets."""
    try:
        return {name: value for name, value in process.environ().items() if name.startswith("OLLAMA_")}
    except psutil.AccessDenied:
        return None


def _listens(process: psutil.Process) -> tuple[tuple[str, int], ...] | None:
    try:
        sockets = process.net_connections("tcp")
    except psutil.AccessDenied:
        return None
    return tuple((each.laddr.ip, each.laddr.port) for each in sockets if each.status == psutil.CONN_LISTEN)


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """A process's limit of open files, and how many it has."""

    pid: int
    limit: int
    in_use: int


def open_files(parent: int, module: str) -> Iterator[OpenFiles]:
    """Those of each process below `parent` that runs `module`, as far as they may be read. Blocks."""
    try:
        children = psutil.Process(parent).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for each in children:
        try:
            if module in each.cmdline():
                yield OpenFiles(each.pid, each.rlimit(psutil.RLIMIT_NOFILE)[0], each.num_fds())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def own_file_limit() -> int:
    """That of this process: what it starts inherits it."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class CheckupApi(GivenApi):
    """Asks of an engine what shows how it is. Raises InstanceError; changes nothing."""

    async def clock(self, at: Instance) -> Clock | None:
        """Its clock against ours, by its answer's Date; None where it gives none."""
        before_s = time.time()
        async with self._answered(at, "/") as reply:
            after_s = time.time()
            date = reply.headers.get("Date", "")
        try:
            # Cut to the second, so half a second later on average.
            theirs_s = parsedate_to_datetime(date).timestamp() + 0.5
        except ValueError:
            return None
        return Clock(at.host, theirs_s - (before_s + after_s) / 2, DATE_WITHIN_S / 2 + (after_s - before_s) / 2)

    async def loaded(self, at: Instance) -> tuple[Loaded, ...] | None:
        """What is in its memory; None where it does not tell."""
        found = await self.in_memory(at)
        return None if found is None else tuple(_loaded(name, each) for name, each in found.items())


def _loaded(name: str, told: Mapping[str, object]) -> Loaded:
    def number(key: str) -> int:
        value = told.get(key)
        return value if isinstance(value, int) else 0

    return Loaded(name, number("size"), number("size_vram"), number("context_length"), _seconds_until(told))


def _seconds_until(told: Mapping[str, object]) -> float | None:
    try:
        at = datetime.fromisoformat(str(told.get("expires_at", "")))
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - time.time()
