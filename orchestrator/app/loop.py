"""A process's event loop: uvloop where there is one, ended by SIGTERM, SIGINT or its terminal's end."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

try:
    import uvloop
except ImportError:  # no build for this platform: asyncio's own loop does the same, slower
    uvloop = None  # type: ignore[assignment]


def run(main: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    """Run `main(stop)` to its end; `stop` is set by the first SIGTERM or SIGINT. Answers main's exit code."""

    async def with_signals() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        return await main(stop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop else None) as runner:
        return runner.run(with_signals())


def open_files_at_most() -> None:
    """Let this process open as many files as it may: a call has two connections, and systems begin with 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # where the system allows no more than it says, the soft limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# Longer than the work here takes to end in order.
CANCEL_AGAIN_S = 5.0


async def until(stop: asyncio.Event, work: Awaitable[Any]) -> None:
    """Wait for `work` until `stop` is set; then cancel it. An error of `work` is raised."""
    task = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
    finally:
        stopping.cancel()
        # Python 3.11's wait_for, in whatever library, can swallow a cancellation (CPython 86296): then once more.
        while not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=CANCEL_AGAIN_S)


def on_reload(reload: Callable[[], None]) -> None:
    """From now on SIGHUP calls `reload`; one that the keeper has held back since the process began does at once."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))


def on_hangup(reload: Callable[[], None], end: Callable[[], None]) -> None:
    """From now on SIGHUP calls `reload`, or `end` where it is sent because the terminal this was started on is gone.

    Under `nohup` the terminal's end is nothing to end for.
    """
    ends_with_terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()

    def hung_up() -> None:
        (end if ends_with_terminal and not _has_terminal() else reload)()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
