"""What a controller on another machine must have to go on from here, the same on all machines of a cluster, by Redis.

The deployments and how far pools followed their load, what was moved, an operator's wishes, the keys that hosts are
known by, and whose the hosts are. Each state of a file has a revision and is sealed with it under the machines' common
secret, also that it was removed; the highest one that was seen stands in `mirror.json`. So who can write to Redis has
nothing done on a host by it: neither by what he made up or what was true once, nor by taking something away.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

from pydantic import TypeAdapter, ValidationError

from orchestrator import telemetry
from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.core.errors import HostError, OrchestratorError, StoreError
from orchestrator.core.mirror import NEVER, Stamp, Step, is_newer, step
from orchestrator.settings import ClusterSettings
from orchestrator.store import kept
from orchestrator.store.connection import Connection
from orchestrator.store.kept import Kept, Version
from orchestrator.store.schema import KEPT
from orchestrator.whole_file import write_once, write_whole

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
# Below the state folder.
PATTERNS: Final = (
    "owner",
    "known_hosts",
    "authority.sealed",
    "moves.json",
    "resized.json",
    "deployments/*.json",
    "wishes/*.json",
)
_NAME: Final = re.compile(
    r"owner|known_hosts|authority\.sealed|moves\.json|resized\.json|(?:deployments|wishes)/[\w-]+\.json"
)
# And stamps by name; where a version of ours wrote it that knew none, digests.
_AGREED: Final = TypeAdapter(tuple[Version, dict[str, Stamp | str]])


def secret_of(paths: StatePaths, settings: ClusterSettings) -> bytes:
    """What all machines of a cluster have in common, and Redis has not."""
    given = settings.cache.secret
    return given.get_secret_value().encode() if given is not None else settings_in_use.cache_secret(paths)


def chores_key(paths: StatePaths, settings: ClusterSettings) -> bytes:
    """What changes of models are sealed with on their way through Redis."""
    return hashlib.blake2b(secret_of(paths, settings), digest_size=32, person=b"olm chores").digest()


def sessions_key(paths: StatePaths, settings: ClusterSettings) -> str:
    """What logins to the page are sealed with, so that every worker of every machine takes them."""
    return hashlib.blake2b(secret_of(paths, settings), digest_size=32, person=b"olm sessions").hexdigest()


class Mirror:
    """Of one state folder. `on_taken` is called where something came from another machine."""

    def __init__(self, paths: StatePaths, connection: Connection, secret: bytes, on_taken: Callable[[], None]) -> None:
        self._paths, self._connection, self._on_taken = paths, connection, on_taken
        self._key = hashlib.blake2b(secret, digest_size=32, person=b"olm files").digest()
        self._base = paths.root / "mirror.json"
        self._version, self._agreed = self._read_base()
        self._given: dict[str, Stamp] = {}  # by this process; the reply may have been lost
        self._refused: set[tuple[str, str]] = set()  # names and tags that were said to be older
        self._one_at_a_time = asyncio.Lock()
        self._stirred = asyncio.Event()
        self.problem = ""  # why this folder is not as the others'; '': it is

    def stir(self) -> None:
        """Something here may be otherwise: look at once."""
        self._stirred.set()

    async def run(self, leads: Callable[[], bool]) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.agree(begins=leads())
            except OrchestratorError as why:
                log.debug("not the same as on other machines: %s", why)
            self._stirred.clear()
            try:
                async with asyncio.timeout(LOOK_EVERY_S):  # wait_for can swallow a cancellation (CPython 86296)
                    await self._stirred.wait()
            except TimeoutError:
                continue

    async def take_over(self) -> None:
        """Before a controller leads: have what the one before it had. Raises HostError where this folder cannot."""
        self._version = Version()  # looked at whole, whatever Redis says of how far it is
        try:
            await self.agree(begins=False)
            if not (owner := self._paths.owner).exists():
                write_once(owner, settings_in_use.place(self._paths), mode=0o600)
        except StoreError as why:
            log.warning("what another controller left is not known: %s", why)
        except OSError as why:
            raise HostError(f"{self._paths.owner} cannot be written: {why.strerror}") from why

    async def agree(self, *, begins: bool) -> None:
        """Make this folder and Redis the same. `begins`: this controller leads, and tells a Redis that has nothing.

        Raises StoreError; HostError where this folder cannot be made the same, which is said.
        """
        async with self._one_at_a_time:
            try:
                await self._agree(begins=begins)
            except HostError as why:
                if str(why) != self.problem:
                    log.error("%s", why)
                self.problem = str(why)
                raise
            self.problem = ""

    async def _agree(self, *, begins: bool) -> None:
        version, here = await kept.version(self._connection), await asyncio.to_thread(self._here)
        changed = {name for name in {*here, *self._agreed} if self._is_changed(name, here.get(name))}
        if begins:  # what a version of ours wrote that gave no stamps gets one
            changed |= {name for name, stamp in self._agreed.items() if not stamp.revision}
        if version == self._version and not changed:
            return
        if not version.epoch and not begins:
            return
        there = await kept.read(self._connection) if version.epoch else {}
        self._check(here, there)
        if own := {name: _stamp(each) for name, each in there.items() if _stamp(each) == self._given.get(name)}:
            self._agreed = {**self._agreed, **own}
            changed = (changed - own.keys()) | {name for name in own if self._is_changed(name, here.get(name))}
        await self._exchange(version, changed, here, there)

    def _is_changed(self, name: str, content: bytes | None) -> bool:
        before = self._agreed.get(name, NEVER)
        if before == NEVER or (content is None and not before.revision):
            return before != NEVER or content is not None
        return self._sealed(name, before.revision, content).seal != before.seal

    async def _exchange(
        self, version: Version, changed: Collection[str], here: Mapping[str, bytes], there: Mapping[str, Kept]
    ) -> None:
        agreed, given, taken = dict(self._agreed), 0, 0
        for name in sorted({*here, *there, *agreed}):
            theirs, ours = there.get(name), here.get(name)
            match self._step(name, ours, theirs, is_changed=name in changed):
                case Step.NOTED if theirs is not None:
                    agreed[name] = _stamp(theirs)
                case (Step.TAKEN | Step.LOST) as found if theirs is not None:
                    if found is Step.LOST:
                        path = self._paths.root / name
                        log.warning("%s was changed here and on another machine; the other's stands", path)
                    await asyncio.to_thread(self._take, name, theirs.content)
                    agreed[name], taken = _stamp(theirs), taken + 1
                case (Step.GIVEN | Step.TOLD_AGAIN) as found:
                    revision = agreed.get(name, NEVER).revision + (found is Step.GIVEN)
                    told = self._sealed(name, revision, ours)
                    self._given[name] = _stamp(told)
                    # Where it was changed there meanwhile, it is looked at again.
                    if await kept.put(self._connection, name, theirs, told):
                        agreed[name], given = _stamp(told), given + 1
        # Where somebody else changed something meanwhile, Redis is further than that, and is looked at again.
        epoch = version.epoch or (await kept.version(self._connection)).epoch
        await asyncio.to_thread(self._write_base, Version(epoch, version.number + given), agreed)
        if taken:
            self._on_taken()

    def _step(self, name: str, ours: bytes | None, theirs: Kept | None, *, is_changed: bool) -> Step:
        before, stamp = self._agreed.get(name, NEVER), _stamp(theirs)
        is_dated = any(each.revision for each in self._agreed.values())
        is_older = stamp not in (NEVER, before) and not is_newer(stamp, before, is_dated=is_dated)
        if theirs is not None and is_older and (name, theirs.tag) not in self._refused:
            self._refused.add((name, theirs.tag))
            telemetry.MIRRORED_OLDER.inc()
            log.warning(
                "%s in Redis is older (revision %d) than what this machine has seen (%d): not taken, and told anew",
                name,
                stamp.revision,
                before.revision,
            )
        is_same = theirs is not None and theirs.content == ours
        return step(before, stamp, is_changed=is_changed, is_same=is_same, is_dated=is_dated)

    def _check(self, here: Mapping[str, bytes], there: Mapping[str, Kept]) -> None:
        for name, each in there.items():
            if each != self._sealed(name, each.revision, each.content):
                raise HostError(
                    f"{name} in Redis was not written by a machine with the secret of {self._paths.root} and its "
                    "version: give all machines of a cluster one version and the same `cache.secret`, or the same "
                    f"cache.key in their state folders; where it was changed on all of them, `redis-cli DEL '{KEPT}'`"
                )
        own = sorted(name for name in here if name.startswith("deployments/"))
        if there and not self._agreed and own and any(_content(there.get(name)) != here[name] for name in own):
            raise HostError(
                f"{self._paths.root} has deployments of its own, and Redis those of another cluster: begin with an "
                "empty --state here, or name another `redis`"
            )

    # --- files --------------------------------------------------------------------------------------------------------

    def _here(self) -> dict[str, bytes]:
        found = {}
        for pattern in PATTERNS:
            for path in self._paths.root.glob(pattern):
                try:
                    found[str(path.relative_to(self._paths.root))] = path.read_bytes()
                except FileNotFoundError:
                    continue  # removed just now
                except OSError as why:
                    raise HostError(f"{path} cannot be read: {why.strerror}") from why
        return found

    def _take(self, name: str, content: bytes | None) -> None:
        path = self._paths.root / name
        if not _NAME.fullmatch(name):
            raise HostError(f"{name!r} in Redis is no file of a state folder")
        try:
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.parent.mkdir(mode=0o700, exist_ok=True)
                write_whole(path, content, mode=0o600)
        except OSError as why:
            raise HostError(f"{path} cannot be written: {why.strerror}") from why

    def _sealed(self, name: str, revision: int, content: bytes | None) -> Kept:
        """A state of a file. Without a revision as a version of ours sealed it that gave none."""
        sealed = hashlib.blake2b(key=self._key, digest_size=16, person=b"dated" if revision else b"")
        if revision:
            sealed.update(b"%d %s " % (revision, b"gone" if content is None else b"is"))
        sealed.update(name.encode() + b"\n" + (content or b""))
        return Kept(revision, sealed.hexdigest(), content)

    def _read_base(self) -> tuple[Version, dict[str, Stamp]]:
        try:
            version, agreed = _AGREED.validate_json(self._base.read_bytes())
        except FileNotFoundError:
            return Version(), {}
        except (OSError, ValidationError) as why:
            raise HostError(f"{self._base} cannot be read; remove it") from why
        return version, {name: Stamp(0, each) if isinstance(each, str) else each for name, each in agreed.items()}

    def _write_base(self, version: Version, agreed: dict[str, Stamp]) -> None:
        try:
            write_whole(self._base, _AGREED.dump_json((version, dict(agreed))), mode=0o600)
        except OSError as why:
            raise HostError(f"{self._base} cannot be written: {why.strerror}") from why
        self._version, self._agreed = version, agreed


def _stamp(each: Kept | None) -> Stamp:
    return NEVER if each is None else Stamp(each.revision, each.seal)


def _content(each: Kept | None) -> bytes | None:
    return None if each is None else each.content
