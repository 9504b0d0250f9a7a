"""An issuer's keys and its own addresses, as this worker knows them.

They are fetched behind all calls: in time, and where a token names a key that is not known yet, though not more often
than so. While an issuer is away its keys of before are right. What a token says is left to `tokens`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from orchestrator import telemetry
from orchestrator.core.errors import CapacityError
from orchestrator.core.origins import is_loopback
from orchestrator.gateway.grants import Issuer
from orchestrator.gateway.signing_keys import FetchError, SigningKey, keys_in

if TYPE_CHECKING:
    import aiohttp  # loaded by who first asks: a worker that asks nobody is spared its 9 MiB

log = logging.getLogger(__name__)

REFRESH_S: Final = 600.0
# An issuer that is away is asked again after this, and then less and less often.
AGAIN_S: Final = 5.0
LONGEST_PAUSE_S: Final = 60.0
# Tokens that name unknown keys have an issuer asked this often at most: anybody can think of such names.
UNKNOWN_AGAIN_S: Final = 10.0
# The keys of an issuer that has been away for longer are none.
KEPT_S: Final = 86_400.0
TIMEOUT_S: Final = 5.0
MAX_BYTES: Final = 262_144
_DISCOVERY: Final = "/.well-known/openid-configuration"


class KeySet:
    """One issuer's, as this worker knows it. `changed` is called where other keys were found."""

    def __init__(self, issuer: Issuer, http: Callable[[], aiohttp.ClientSession], changed: Callable[[], None]) -> None:
        self.issuer = issuer
        self._http, self._changed = http, changed
        self._keys: tuple[SigningKey, ...] = ()
        self._addresses: Mapping[str, Any] = {}
        self._fetching: asyncio.Task[None] | None = None
        self._fetched_s = self._asked_s = float("-inf")
        self._failures, self._problem = 0, ""
        telemetry.ISSUER_UP.labels(issuer.name).set(0)

    @property
    def due_s(self) -> float:
        """When it is asked again (time.monotonic)."""
        pause_s = min(LONGEST_PAUSE_S, AGAIN_S * 2 ** min(self._failures - 1, 8)) if self._failures else REFRESH_S
        return self._asked_s + pause_s

    async def find(self, key_id: str | None, algorithm: str) -> SigningKey | None:
        """The key of this name; without one the only that there is. Raises CapacityError where none is known yet."""
        found = self._named(key_id, algorithm)
        if found is None:
            await self._ask_for_unknown()
            found = self._named(key_id, algorithm)
        if not self._keys:
            raise self._away()
        return found

    async def addresses(self) -> Mapping[str, Any]:
        """What it says of itself. Raises CapacityError where it has not been reached yet."""
        if not self._addresses:
            await self._ask_for_unknown()
        if not self._addresses:
            raise self._away()
        return self._addresses

    async def refresh(self) -> None:
        """Ask for its keys; who asks meanwhile waits for the same answer."""
        if self._fetching is None:
            self._asked_s = time.monotonic()
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        await asyncio.shield(self._fetching)

    async def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> tuple[int, bytes]:
        """What it answers to a form. Raises FetchError."""
        import aiohttp

        try:
            async with self._http().post(
                url, data=dict(form), headers=dict(headers), ssl=self._trust(), allow_redirects=False
            ) as reply:
                return reply.status, await _body(reply)
        except (aiohttp.ClientError, TimeoutError, OSError) as why:
            raise FetchError(f"it cannot be asked ({type(why).__name__})") from why

    async def end(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            with suppress(asyncio.CancelledError):
                await self._fetching

    # --- asking ---

    def _named(self, key_id: str | None, algorithm: str) -> SigningKey | None:
        fit = [each for each in self._keys if algorithm in each.algorithms]
        if key_id is None:
            return fit[0] if len(fit) == 1 else None
        return next((each for each in fit if each.id == key_id), None)

    async def _ask_for_unknown(self) -> None:
        if self._fetching is not None or time.monotonic() - self._asked_s >= UNKNOWN_AGAIN_S:
            await self.refresh()

    async def _fetch(self) -> None:
        import aiohttp

        try:
            async with asyncio.timeout(TIMEOUT_S):
                keys = await (self._ask() if self.issuer.jwks_file is None else self._read(self.issuer.jwks_file))
        except (FetchError, aiohttp.ClientError, TimeoutError, OSError, ValueError) as why:  # ValueError: no address
            self._failed(str(why) if isinstance(why, FetchError) else type(why).__name__)
        except Exception:  # a mistake of ours, which shall not keep the keys from being asked for again
            log.exception("issuer %s", self.issuer.name)
            self._failed("a mistake of ours")
        else:
            self._found(keys)
        finally:
            self._fetching = None

    async def _read(self, path: Path) -> tuple[SigningKey, ...]:
        return keys_in(await asyncio.to_thread(path.read_bytes))

    async def _ask(self) -> tuple[SigningKey, ...]:
        try:
            told = orjson.loads(await self._get(self.issuer.url.rstrip("/") + _DISCOVERY))
        except orjson.JSONDecodeError as why:
            raise FetchError("what it says of itself is no JSON") from why
        if not isinstance(told, dict) or told.get("issuer") != self.issuer.url:
            raise FetchError("it calls itself by another name than `url` in the settings, to the letter")
        keys = keys_in(await self._get(safe_address(told, "jwks_uri", self.issuer)))
        self._addresses = told
        return keys

    async def _get(self, url: str) -> bytes:
        async with self._http().get(url, ssl=self._trust(), allow_redirects=False) as reply:
            if reply.status != 200:
                raise FetchError(f"{urlsplit(url).path} answers {reply.status}")
            return await _body(reply)

    def _trust(self) -> ssl.SSLContext | bool:
        return True if self.issuer.ca is None else _trusting(self.issuer.ca)

    def _found(self, keys: tuple[SigningKey, ...]) -> None:
        self._fetched_s, self._failures = time.monotonic(), 0
        if keys != self._keys:
            log.info("issuer %s: %d keys taken over", self.issuer.name, len(keys))
            self._changed()
        self._keys = keys
        if self._problem:
            log.info("issuer %s: its keys can be had again", self.issuer.name)
        self._problem = ""
        telemetry.ISSUER_UP.labels(self.issuer.name).set(1)

    def _failed(self, problem: str) -> None:
        self._failures += 1
        telemetry.ISSUER_UP.labels(self.issuer.name).set(0)
        if self._keys and time.monotonic() - self._fetched_s > KEPT_S:
            self._keys = ()
            self._changed()
            log.error("issuer %s: it was away for a day, and its keys are taken no more", self.issuer.name)
        if problem != self._problem:
            log.error(
                "issuer %s: its keys cannot be had: %s; %d of before are right meanwhile",
                self.issuer.name,
                problem,
                len(self._keys),
            )
        self._problem = problem

    def _away(self) -> CapacityError:
        return CapacityError(
            f"the keys of the issuer {self.issuer.name} are not known yet: {self._problem or 'it is being asked'}",
            retry_after_s=int(AGAIN_S),
        )


class Issuers:
    """The key sets of all issuers of the settings at this moment."""

    def __init__(self, issuers: Callable[[], Mapping[str, Issuer]], changed: Callable[[], None]) -> None:
        self._issuers, self._changed = issuers, changed
        self._sets: dict[str, KeySet] = {}
        self._keeping: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._stirred = asyncio.Event()

    def start(self) -> None:
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    def stir(self) -> None:
        """The settings were read again: look at all that they name."""
        self._stirred.set()

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeping
        for each in self._sets.values():
            await each.end()
        if self._session is not None:
            await self._session.close()

    def of(self, issuer: Issuer) -> KeySet:
        """The keys of an issuer; one that is looked for elsewhere by now is begun anew."""
        known = self._sets.get(issuer.url)
        if known is None or (known.issuer.name, known.issuer.jwks_file, known.issuer.ca) != (
            issuer.name,
            issuer.jwks_file,
            issuer.ca,
        ):
            known = self._sets[issuer.url] = KeySet(issuer, self._http, self._changed)
        return known

    async def _keep(self) -> None:
        while True:
            is_stirred, now_s = self._stirred.is_set(), time.monotonic()
            self._stirred.clear()
            present = [self.of(each) for each in self._issuers().values()]
            for each in self._sets.values():
                if each not in present:
                    telemetry.ISSUER_UP.labels(each.issuer.name).set(1)  # nobody needs it any more
            self._sets = {each.issuer.url: each for each in present}
            await asyncio.gather(*(each.refresh() for each in present if is_stirred or each.due_s <= now_s))
            pause_s = min((each.due_s for each in present), default=float("inf")) - time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if pause_s == float("inf") else max(pause_s, 0.1)):
                    await self._stirred.wait()

    def _http(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(TIMEOUT_S), cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session


def safe_address(told: Mapping[str, Any], name: str, issuer: Issuer) -> str:
    """An address that an issuer names: https, or this machine where it is here itself. Raises FetchError."""
    url = told.get(name)
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
    except ValueError:
        parts = None
    if parts is None or not parts.hostname:
        raise FetchError(f"it names no {name}")
    is_here = parts.scheme == "http" and is_loopback(parts.hostname) and issuer.url.startswith("http://")
    if parts.scheme != "https" and not is_here:
        raise FetchError(f"its {name} is not https")
    return parts.geturl()


async def _body(reply: aiohttp.ClientResponse) -> bytes:
    pieces = bytearray()
    async for piece in reply.content.iter_any():
        pieces += piece
        if len(pieces) > MAX_BYTES:
            raise FetchError(f"it answers with more than {MAX_BYTES >> 10} KiB")
    return bytes(pieces)


@lru_cache(maxsize=16)
def _trusting(ca: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)
