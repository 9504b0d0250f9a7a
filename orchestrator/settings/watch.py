"""Changes of a file that is read whole, the settings' above all, as they happen.

Knows files; what a change means is the caller's affair.

The folder is watched and not the file: editors put a new file in its place, and a mounted configuration changes by a
link beside it. Every few seconds the file is read in any case: events get lost where a folder is replaced, on network
file systems, and where the system's watches are used up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Generic, TypeVar

from watchfiles import awatch

from orchestrator.core.errors import SettingsError
from orchestrator.settings.file import is_open_to_all, parse, read_text
from orchestrator.settings.model import ClusterSettings

_QUIET_MS = 200  # an editor's several writes are one change; also how soon watching ends when asked to
_LONGEST_MS = 1000  # a file that is written without pause is read this often all the same
_READ_ANYWAY_S = 2.0
_RETRY_S = 30.0

log = logging.getLogger(__name__)
logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it reports every event in the folder, others' files too

Read = TypeVar("Read")


class FileWatch(Generic[Read]):
    """Watches one file. `poke` has it read again where no change can be seen: a secret's file, the environment."""

    def __init__(
        self, path: Path, read: Callable[[], str], parse: Callable[[str], Read], current: Read | None = None
    ) -> None:
        """`read` and `parse` raise SettingsError. `current`: what the caller runs by; a file that says otherwise by the
        time watching begins is a change."""
        self._path, self._read, self._parse = path, read, parse
        self._current = current
        self._wake = asyncio.Event()
        self._is_poked = False

    def poke(self) -> None:
        """Have the file read and yielded now, changed or not. From the event loop, as a signal's handler is."""
        self._is_poked = True
        self._wake.set()

    async def changes(self) -> AsyncGenerator[Read | SettingsError, None]:
        """Yield what the file says, or what is wrong with it, each time it changes.

        It ends only with the caller: close it (`aclosing`) to end the watch.
        """
        seen, as_what = await asyncio.to_thread(self._text), await asyncio.to_thread(self._openness)
        if self._current is not None:
            first = await asyncio.to_thread(self._parsed, seen)
            if first != self._current:
                yield first
        stop = asyncio.Event()
        watching = asyncio.create_task(self._watch(stop), name=f"watch {self._path}")
        try:
            while True:
                await self._woken()
                is_poked, self._is_poked = self._is_poked, False
                text, now = await asyncio.to_thread(self._text), await asyncio.to_thread(self._openness)
                if is_poked or now != as_what or not _same(text, seen):
                    seen, as_what = text, now
                    yield await asyncio.to_thread(self._parsed, text)
        finally:
            stop.set()
            await watching

    async def _woken(self) -> None:
        await _set_within(self._wake, _READ_ANYWAY_S)
        self._wake.clear()

    def _text(self) -> str | SettingsError:
        try:
            return self._read()
        except SettingsError as error:
            return error

    def _openness(self) -> bool:
        """What else of the file says whether it may be taken; a change of it is one of the file."""
        return False

    def _parsed(self, text: str | SettingsError) -> Read | SettingsError:
        if isinstance(text, SettingsError):
            return text
        try:
            return self._parse(text)
        except SettingsError as error:
            return error

    async def _watch(self, stop: asyncio.Event) -> None:
        """Wake the reader after each event in the file's folders, until `stop`; start again when these are others."""
        is_told = False
        while not stop.is_set():
            try:
                await self._watch_folders(_folders(self._path), stop)
            except (OSError, RuntimeError) as error:  # no watches left, a loop of links, or the folder just went away
                if not is_told:
                    log.warning("%s cannot be watched, it is read every %.0f s: %s", self._path, _READ_ANYWAY_S, error)
                is_told = True
                await _set_within(stop, _RETRY_S)

    async def _watch_folders(self, folders: dict[Path, int], stop: asyncio.Event) -> None:
        events = awatch(
            *folders, watch_filter=None, recursive=False, step=_QUIET_MS, debounce=_LONGEST_MS, stop_event=stop
        )
        # Runs when the first `anext` suspends, with the watch in place: a change before that is read now.
        asyncio.get_running_loop().call_soon(self._wake.set)
        async with contextlib.aclosing(events):
            async for _ in events:
                self._wake.set()
                if _folders(self._path) != folders:
                    return


class SettingsWatch(FileWatch[ClusterSettings]):
    """Watches `cluster.yaml`; that it is missing is an error too."""

    def __init__(self, path: Path, current: ClusterSettings | None = None) -> None:
        super().__init__(path, lambda: read_text(path), lambda text: parse(text, str(path)), current)

    def _openness(self) -> bool:
        return is_open_to_all(self._path)


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Wait for `event`, not for ever. Not by `wait_for`: in Python 3.11 it can swallow a cancellation."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _same(one: str | SettingsError, other: str | SettingsError) -> bool:
    return type(one) is type(other) and str(one) == str(other)


def _folders(path: Path) -> dict[Path, int]:
    """The folders where a change to `path` shows, and their inodes: its own and, through links, its target's."""
    found = {}
    for folder in (path.absolute().parent, Path(path).resolve().parent):
        there = next(each for each in (folder, *folder.parents) if each.is_dir())
        found[there] = there.stat().st_ino
    return found
