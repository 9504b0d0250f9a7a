"""One multiplexed connection a process: everybody's commands share it, and it comes back by itself.

Concurrent callers' commands leave in one write and cost a fraction of a pooled client's. What the commands mean is left
to those who send them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from orchestrator.core.errors import StoreError
from orchestrator.store.address import open_socket, parse_url
from orchestrator.store.link import Arg, Link, LinkLostError, UnknownScriptError, pack
from orchestrator.store.scripts import Script

log = logging.getLogger(__name__)

# Gateways must be back and have renewed their leases within the scripts' RETURN_MS, so the longest pause is half of it.
FIRST_DELAY_S, LONGEST_DELAY_S = 0.05, 1.0


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
    """Commands to one Redis. `open` it once; from then on it keeps itself up, and says by `is_up` whether it is.

    A command fails with StoreError where Redis is away, silent for `timeout_s`, or refuses. A cancelled caller's
    command still runs: it was sent.
    """

    def __init__(self, url: str, *, name: str = "", timeout_s: float = 5.0) -> None:
        self._address = parse_url(url)
        self._name = name
        self._timeout_s = timeout_s
        self._link: Link | None = None
        self._why = "not connected yet"
        self._up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._listeners: dict[bytes, Callable[[bytes], None]] = {}
        self._on_up: list[Callable[[], None]] = []
        self._followers: list[Follower] = []
        self._loading: dict[str, asyncio.Task[Any]] = {}
        self._repeating: set[asyncio.Task[None]] = set()

    @property
    def is_up(self) -> bool:
        return self._link is not None

    @property
    def problem(self) -> str:
        """Why it is not up, for people; empty while it is."""
        return "" if self.is_up else f"Redis at {self._address} does not answer: {self._why}"

    def on_up(self, callback: Callable[[], None]) -> None:
        """Call back each time the connection has come up, the first time included."""
        self._on_up.append(callback)

    def follow(self, follower: Follower) -> None:
        """Tell it of changed keys, as far as it asks Redis to track them, and of each loss of the connection."""
        self._followers.append(follower)

    async def open(self, wait_s: float = 5.0) -> None:
        """Start connecting, and wait that long for it. Raises StoreError; it goes on trying all the same."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_up(), name="store connection")
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
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        if self._link is not None:
            self._link.close("closed")
        self._why = "closed"

    async def command(self, *args: Arg) -> Any:
        """One command, its reply as RESP3 has it: bytes, int, None, list, dict."""
        return await self._ask(pack(args))

    async def script(
        self, script: Script, keys: Sequence[str | bytes], args: Sequence[Arg] = (), *, repeat: bool = False
    ) -> Any:
        """Run a script. With `repeat`, for those that answer repeats identically: ask again if the connection broke
        or is down, until the connection's time limit has passed."""
        packed = pack((b"EVALSHA", script.sha, len(keys), *keys, *args))
        try:
            return await self._run(script, packed)
        except LinkLostError:
            if not repeat:
                raise
        return await self._run_again(script, packed)

    def send(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Arg], told: Told) -> None:
        """Run a script that answers repeats identically: it has left when this returns, no task, no turn of the loop.

        It is asked again like `script` with `repeat`. `told` is called once.
        """
        self._send(script, pack((b"EVALSHA", script.sha, len(keys), *keys, *args)), told)

    def post(self, what: str, script: Script, keys: Sequence[str | bytes], args: Sequence[Arg]) -> None:
        """`send`, and do not wait; where it fails, the log says that `what` was not done."""
        self.send(script, keys, args, _log_failure_of(what))

    def post_command(self, what: str, *args: Arg) -> None:
        """`post` of a command that may be repeated."""
        self._send(None, pack(args), _log_failure_of(what))

    def publish(self, channel: str, payload: bytes, heard: Callable[[bool], None]) -> None:
        """Tell a channel something that may be told twice. `heard`: whether anybody there, as far as Redis can say."""
        self._send(None, pack((b"PUBLISH", channel, payload)), lambda count, _: heard(bool(count)))

    def ask_together(self, commands: Sequence[Sequence[Arg]], told: Told) -> None:
        """Commands with nobody's between them, not asked again. `told` is called once, with their replies, as the last
        of them is read: before whatever Redis says behind it."""
        if self._link is None:
            told(None, LinkLostError(self.problem))
            return
        together = _Together(len(commands), told)
        for each in commands:
            self._link.ask_for(together, pack(tuple(each)))

    def _send(self, script: Script | None, packed: bytes, told: Told) -> None:
        if self._link is None:
            self._repeat(script, packed, told)
        else:
            self._link.ask_for(_Sent(lambda: self._repeat(script, packed, told), told), packed)
            self._link.flush()

    def _repeat(self, script: Script | None, packed: bytes, told: Told) -> None:
        async def repeat() -> None:
            try:
                reply = await self._run_again(script, packed)
            except StoreError as why:
                told(None, why)
            else:
                told(reply, None)

        task = asyncio.ensure_future(repeat())
        self._repeating.add(task)
        task.add_done_callback(self._repeating.discard)

    async def load(self, *scripts: Script) -> None:
        """Let Redis know scripts before they are asked for; while it is away, they are loaded when they are missed."""
        if self.is_up:
            await asyncio.gather(*(self._load(each) for each in scripts))

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

    def _ask(self, packed: bytes) -> asyncio.Future[Any]:
        if self._link is None:
            raise LinkLostError(self.problem)
        return self._link.ask(packed)

    async def _run(self, script: Script | None, packed: bytes) -> Any:
        try:
            return await self._ask(packed)
        except UnknownScriptError:
            if script is None:
                raise
            await self._load(script)
            return await self._ask(packed)

    async def _run_again(self, script: Script | None, packed: bytes) -> Any:
        told = ""
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    await self._up.wait()
                    try:
                        return await self._run(script, packed)
                    except LinkLostError as why:
                        told = str(why)
                        # Up but not able ("LOADING"): the keeper's pace is right for asking again, too.
                        await asyncio.sleep(FIRST_DELAY_S)
        except TimeoutError as why:
            raise LinkLostError(self.problem or told) from why

    async def _load(self, script: Script) -> None:
        """Load a script once for all who miss it at the same time."""
        task = self._loading.get(script.sha)
        if task is None:
            task = asyncio.ensure_future(self.command(b"SCRIPT", b"LOAD", script.source))
            self._loading[script.sha] = task
            task.add_done_callback(lambda _: self._loading.pop(script.sha, None))
        await asyncio.shield(task)

    # --- staying up ---

    async def _keep_up(self) -> None:
        loop = asyncio.get_running_loop()
        delay = FIRST_DELAY_S
        while True:
            try:
                async with asyncio.timeout(self._timeout_s):
                    link = await self._connect()
            except (OSError, StoreError) as why:  # TimeoutError is an OSError
                self._why = str(why) or "no connection in time"
            else:
                since = loop.time()
                self._set_up(link)
                await asyncio.shield(link.lost)
                if loop.time() - since > LONGEST_DELAY_S:
                    delay = FIRST_DELAY_S
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - so that gateways do not come in step
            delay = min(delay * 2, LONGEST_DELAY_S)

    async def _connect(self) -> Link:
        link = await open_socket(self._address, lambda: Link(str(self._address), self._timeout_s, self._pushed))
        try:
            await self._greet(link)
        except BaseException:
            link.close("not let in")
            raise
        return link

    async def _greet(self, link: Link) -> None:
        """Log in and subscribe; PING is what a server that still loads its data refuses."""
        hello: list[Arg] = [b"HELLO", 3]
        if self._address.password:
            hello += [b"AUTH", self._address.username or "default", self._address.password]
        if self._name:
            hello += [b"SETNAME", self._name]
        commands: list[list[Arg]] = [hello]
        if self._address.db:
            commands.append([b"SELECT", self._address.db])
        await _ask_all(link, [*commands, [b"PING"]])
        heard: set[bytes] = set()
        while missing := self._listeners.keys() - heard:  # one may be added while the others are being confirmed
            await _ask_all(link, [[b"SUBSCRIBE", channel] for channel in missing])
            heard |= missing

    def _set_up(self, link: Link) -> None:
        if link.is_lost:
            self._why = link.lost.result()
            return
        link.on_lost = self._set_down
        link.on_changed = self._changed
        self._link = link
        self._up.set()
        loop = asyncio.get_running_loop()
        for callback in self._on_up:
            loop.call_soon(callback)

    def _set_down(self) -> None:
        if self._link is not None:
            self._why = self._link.lost.result()
        self._link = None
        self._up.clear()
        for each in self._followers:
            each.lost()

    def _changed(self, keys: Sequence[bytes] | None) -> None:
        for each in self._followers:
            each.changed(keys)

    def _pushed(self, channel: bytes, payload: bytes) -> None:
        listener = self._listeners.get(channel)
        if listener is not None:
            listener(payload)


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
        if isinstance(why, LinkLostError | UnknownScriptError):
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


async def _ask_all(link: Link, commands: Sequence[Sequence[Arg]]) -> None:
    asked = (link.ask(pack(tuple(each))) for each in commands)
    for reply in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(reply, BaseException):
            raise reply
