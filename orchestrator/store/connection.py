"""One multiplexed connection a process: everybody's commands share it, and it comes back by itself.

Concurrent callers' commands leave in one write and cost a fraction of a pooled client's. What the commands mean is left
to those who send them; which server has a key, and how its line is kept up, to `lines`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

from orchestrator.core.errors import StoreError
from orchestrator.store.address import parse_url
from orchestrator.store.line import FIRST_DELAY_S, Line
from orchestrator.store.lines import lines_to
from orchestrator.store.link import (
    Arg,
    AskedElsewhereError,
    Link,
    LinkLostError,
    MovedError,
    NoWritesError,
    UnknownScriptError,
    not_waited_for,
    pack,
)
from orchestrator.store.schema import WRITABLE
from orchestrator.store.scripts import Script

log = logging.getLogger(__name__)

# Commands of no key: in a Redis Cluster they are asked of the master that has the first slot.
_OF_NO_KEY: Final = frozenset(
    (
        b"ACL",
        b"CLIENT",
        b"CONFIG",
        b"ECHO",
        b"FLUSHALL",
        b"INFO",
        b"PING",
        b"PUBLISH",
        b"SCRIPT",
        b"SUBSCRIBE",
        b"TIME",
        b"UNSUBSCRIBE",
    )
)
_SCANNED_AT_ONCE: Final = 1000
# A server that is full, or whose disk is, is asked this often whether it takes writes again.
LOOK_FOR_WRITES_S: Final = 0.5

# What became of a script that was sent: its reply, or why there is none.
Told = Callable[[Any, StoreError | None], None]


class Follower(Protocol):
    """Told at once, in the order of the socket: nothing that Redis says is heard between."""

    def changed(self, keys: Sequence[bytes] | None) -> None:
        """Keys that Redis was asked to track on this connection are not what they were; None: no key is."""
        ...

    def lost(self) -> None:
        """The connection is gone, and with it what was asked on it."""
        ...


class Connection:
    """Commands to one Redis, or to the masters of a cluster. `open` it once; from then on it keeps itself up, and says
    by `is_up` whether it is: of a cluster, whether every master is.

    A command fails with StoreError where Redis is away, silent for `timeout_s`, or refuses. A cancelled caller's
    command still runs: it was sent. A Redis that takes no writes is as good as none, so the connection is not up until
    it does again; what only reads is answered all the while.
    """

    def __init__(self, url: str, *, name: str = "", timeout_s: float = 5.0) -> None:
        self._address = parse_url(url)
        self._timeout_s = timeout_s
        self._up = asyncio.Event()
        self._is_open = False
        self._listeners: dict[bytes, Callable[[bytes], None]] = {}
        self._on_up: list[Callable[[], None]] = []
        self._followers: list[Follower] = []
        self._loading: dict[tuple[Link, str], asyncio.Future[Any]] = {}
        self._repeating: set[asyncio.Task[None]] = set()
        self._refusing: dict[Line, str] = {}  # why they take no writes
        self._looking: set[asyncio.Task[None]] = set()
        self._lines = lines_to(self._address, name, timeout_s, self._listeners, self)

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    @property
    def has_failed(self) -> bool:
        """Whether some server could not be reached at least once."""
        return any(each.has_failed for each in self._lines.all)

    @property
    def problem(self) -> str:
        """Why it is not up, for people; empty while it is."""
        if self.is_up:
            return ""
        if self._refusing and self._lines.are_up:
            return f"Redis at {self._address} takes no writes: {'; '.join(set(self._refusing.values()))}"
        return f"Redis at {self._address} does not answer: {self._lines.why}"

    def on_up(self, callback: Callable[[], None]) -> None:
        """Call back each time the connection has come up, the first time included."""
        self._on_up.append(callback)

    def follow(self, follower: Follower) -> None:
        """Tell it of changed keys, as far as it asks Redis to track them, and of each loss of the connection."""
        self._followers.append(follower)

    async def open(self, wait_s: float = 5.0) -> None:
        """Start connecting, and wait that long for it. Raises StoreError; it goes on trying all the same."""
        self._lines.start()
        if wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):  # wait_for can swallow a cancellation (CPython 86296)
                    await self._up.wait()
            except TimeoutError as why:
                raise StoreError(self.problem) from why

    async def close(self) -> None:
        """Let what was sent be done first, as far as Redis answers; then let go."""
        if self._repeating:
            await asyncio.wait(self._repeating)
        for each in self._looking:
            each.cancel()
        await self._lines.close()

    async def command(self, *args: Arg) -> Any:
        """One command, its reply as RESP3 has it: bytes, int, None, list, dict."""
        key, packed = _key_of(args), pack(args)
        try:
            return await self._ask(key, packed)
        except MovedError:  # nothing was done
            return await self._run_again(None, key, packed)

    async def scan(self, match: str) -> AsyncIterator[list[bytes]]:
        """The keys that a glob matches, some at a time: each that is there all the while at least once, others too."""
        for line in self._lines.all:
            cursor = b"0"
            while True:
                if line.link is None:
                    raise LinkLostError(self.problem)
                asked = pack((b"SCAN", cursor, b"MATCH", match, b"COUNT", _SCANNED_AT_ONCE))
                cursor, keys = await line.link.ask(asked)
                yield keys
                if cursor == b"0":
                    break

    async def script(
        self, script: Script, keys: Sequence[str | bytes], args: Sequence[Arg] = (), *, repeat: bool = False
    ) -> Any:
        """Run a script. With `repeat`, for those that answer repeats identically: ask again if the connection broke
        or is down, until the connection's time limit has passed."""
        key = keys[0] if keys else None
        packed = pack((b"EVALSHA", script.sha, len(keys), *keys, *args))
        try:
            return await self._run(script, key, packed)
        except LinkLostError as why:
            if not repeat and not isinstance(why, MovedError):
                raise
        return await self._run_again(script, key, packed)

    def send(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Arg], told: Told) -> None:
        """Run a script that answers repeats identically: it has left when this returns, no task, no turn of the loop.

        It is asked again like `script` with `repeat`. `told` is called once.
        """
        self._send(script, keys[0], pack((b"EVALSHA", script.sha, len(keys), *keys, *args)), told)

    def post(self, what: str, script: Script, keys: Sequence[str | bytes], args: Sequence[Arg]) -> None:
        """`send`, and do not wait; where it fails, the log says that `what` was not done."""
        self.send(script, keys, args, _log_failure_of(what))

    def post_command(self, what: str, *args: Arg) -> None:
        """`post` of a command that may be repeated."""
        self._send(None, _key_of(args), pack(args), _log_failure_of(what))

    def publish(self, channel: str, payload: bytes, heard: Callable[[bool], None]) -> None:
        """Tell a channel something that may be told twice. `heard`: whether anybody there, as far as Redis can say."""
        self._send(None, None, pack((b"PUBLISH", channel, payload)), lambda count, _: heard(bool(count)))

    def ask_together(self, commands: Sequence[Sequence[Arg]], told: Told) -> None:
        """Commands with nobody's between them, not asked again. `told` is called once, with their replies, as the last
        of them is read: before whatever Redis says behind it. All are asked where the first one's key is; those of no
        key, of every master."""
        key = _key_of(commands[0])
        links = [self._link_of(key)] if key is not None else [each.link for each in self._lines.all]
        there = [each for each in links if each is not None]
        if len(there) < len(links) or not there:
            told(None, LinkLostError(self.problem))
            return
        together = _Together(len(commands) * len(there), told)
        for link in there:
            for each in commands:
                link.ask_for(together, pack(tuple(each)))

    def _send(self, script: Script | None, key: str | bytes | None, packed: bytes, told: Told) -> None:
        link = self._link_of(key)
        if link is None:
            self._repeat(script, key, packed, told)
        else:
            again = partial(self._repeat, script, key, packed, told)
            link.ask_for(_Sent(again, told), packed, at_once=True)

    def _repeat(self, script: Script | None, key: str | bytes | None, packed: bytes, told: Told) -> None:
        async def repeat() -> None:
            try:
                reply = await self._run_again(script, key, packed)
            except StoreError as why:
                told(None, why)
            else:
                told(reply, None)

        task = asyncio.ensure_future(repeat())
        self._repeating.add(task)
        task.add_done_callback(self._repeating.discard)

    async def load(self, *scripts: Script) -> None:
        """Let Redis know scripts before they are asked for; while it is away, they are loaded when they are missed."""
        links = [each.link for each in self._lines.all if each.link is not None]
        await asyncio.gather(*(self._load(link, each) for link in links for each in scripts))

    async def subscribe(self, channel: str, listener: Callable[[bytes], None]) -> None:
        """Hear what is published on a channel, also after each reconnect. Messages sent meanwhile are lost."""
        self._listeners[channel.encode()] = listener
        if self.is_up:
            await self.command(b"SUBSCRIBE", channel)

    async def unsubscribe(self, channel: str) -> None:
        self._listeners.pop(channel.encode(), None)
        if self.is_up:
            await self.command(b"UNSUBSCRIBE", channel)

    # --- asking ---

    def _link_of(self, key: str | bytes | None) -> Link | None:
        line = self._lines.home if key is None else self._lines.of(key)
        return None if line is None else line.link

    def _ask(self, key: str | bytes | None, packed: bytes) -> asyncio.Future[Any]:
        link = self._link_of(key)
        if link is None:
            raise LinkLostError(self.problem or f"Redis at {self._address} has no master for this key")
        return link.ask(packed)

    async def _run(self, script: Script | None, key: str | bytes | None, packed: bytes) -> Any:
        try:
            return await self._ask(key, packed)
        except UnknownScriptError:
            link = self._link_of(key)
            if script is None or link is None:
                raise
            await self._load(link, script)
            return await self._ask(key, packed)
        except AskedElsewhereError as why:
            line = self._lines.at(why.host)
            if line is None or line.link is None:
                raise
            if script is not None:
                await self._load(line.link, script)
            line.link.ask(pack((b"ASKING",))).add_done_callback(not_waited_for)
            return await line.link.ask(packed)

    async def _run_again(self, script: Script | None, key: str | bytes | None, packed: bytes) -> Any:
        told = ""
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    await self._up.wait()
                    try:
                        return await self._run(script, key, packed)
                    except LinkLostError as why:
                        told = str(why)
                        if isinstance(why, MovedError):
                            self._lines.stir()
                        # Up but not able ("LOADING"): the keeper's pace is right for asking again, too.
                        await asyncio.sleep(FIRST_DELAY_S)
        except TimeoutError as why:
            raise LinkLostError(self.problem or told) from why

    async def _load(self, link: Link, script: Script) -> None:
        """Load a script once for all who miss it at the same time."""
        asked = self._loading.get((link, script.sha))
        if asked is None:
            asked = link.ask(pack((b"SCRIPT", b"LOAD", script.source)))
            self._loading[link, script.sha] = asked
            asked.add_done_callback(lambda _: self._loading.pop((link, script.sha), None))
        await asyncio.shield(asked)

    # --- as the lines tell ---

    def came_up(self, line: Line) -> None:
        """One server is there; the last that was missing brings the connection up."""
        if self._up.is_set() or not self._lines.are_up or self._refusing:
            return
        self._up.set()
        loop = asyncio.get_running_loop()
        for callback in self._on_up:
            loop.call_soon(callback)

    def went_down(self, line: Line) -> None:
        self._up.clear()
        self._lines.stir()
        for each in self._followers:
            each.lost()

    def takes_no_writes(self, line: Line, why: NoWritesError) -> None:
        if line not in self._refusing and line.link is not None:
            self._refusing[line] = str(why)
            self._up.clear()
            for each in self._followers:
                each.lost()
            looking = asyncio.ensure_future(self._until_writable(line, line.link))
            self._looking.add(looking)
            looking.add_done_callback(self._looking.discard)

    async def _until_writable(self, line: Line, link: Link) -> None:
        """Write something small, again and again, until the server takes it or is gone."""
        with suppress(StoreError):  # what it says to that otherwise, it will say to who asks for more, too
            while line.link is link:
                await asyncio.sleep(LOOK_FOR_WRITES_S)
                names = (f"{WRITABLE}{number}" for number in range(1000))
                key = next((each for each in names if self._lines.of(each) is line), WRITABLE)
                with suppress(LinkLostError):  # refused again; or lost, and then it is another link's matter
                    await link.ask(pack((b"SET", key, 1, b"PX", 1000)))
                    break
        del self._refusing[line]
        self.came_up(line)

    def changed(self, keys: Sequence[bytes] | None) -> None:
        for each in self._followers:
            each.changed(keys)


def _key_of(args: Sequence[Arg]) -> str | bytes | None:
    """What decides who is asked: a command's first argument, unless it is of no key."""
    name = args[0] if isinstance(args[0], bytes) else str(args[0]).encode()
    if len(args) < 2 or name.upper() in _OF_NO_KEY:
        return None
    return args[1] if isinstance(args[1], bytes) else str(args[1])


class _Sent:
    """A script on its way; asked again where nobody can say whether it ran, or Redis does not know it."""

    __slots__ = ("_repeat", "_told")

    def __init__(self, repeat: Callable[[], None], told: Told) -> None:
        self._repeat, self._told = repeat, told

    def done(self) -> bool:
        return False

    def set_result(self, reply: Any) -> None:
        self._told(reply, None)

    def set_exception(self, why: StoreError) -> None:
        if isinstance(why, NoWritesError):  # it did not run, and would not for a while: who waits can go on without
            self._told(None, why)
        elif isinstance(why, LinkLostError | UnknownScriptError):
            self._repeat()
        else:
            self._told(None, why)


class _Together:
    """Commands that are told of as one: by all their replies, or by why there is none of the first that failed."""

    __slots__ = ("_left", "_replies", "_told")

    def __init__(self, count: int, told: Told) -> None:
        self._left, self._told = count, told
        self._replies: list[Any] | None = []

    def done(self) -> bool:
        return False

    def set_result(self, reply: Any) -> None:
        self._left -= 1
        if self._replies is None:
            return
        self._replies.append(reply)
        if not self._left:
            self._told(self._replies, None)

    def set_exception(self, why: StoreError) -> None:
        self._left -= 1
        if self._replies is not None:
            self._replies = None
            self._told(None, why)


def _log_failure_of(what: str) -> Told:
    def told(_: Any, why: StoreError | None) -> None:
        if why is not None:
            log.warning("%s: not done: %s", what, why)

    return told
