"""What a controller on another machine must have to go on from here, the same on all machines of a cluster, by Redis.

The deployments and how far pools followed their load, what was moved, an operator's wishes, the keys that hosts are
known by, and whose the hosts are. Each file is sealed by a digest under the machines' common secret: whoever can write
to Redis cannot have anything done on a host by it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Final

from pydantic import TypeAdapter, ValidationError

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.core.errors import HostError, OrchestratorError, StoreError
from orchestrator.core.mirror import Differences, differences
from orchestrator.settings import ClusterSettings
from orchestrator.store import kept
from orchestrator.store.connection import Connection
from orchestrator.store.kept import Kept, Version
from orchestrator.store.schema import KEPT
from orchestrator.whole_file import write_once, write_whole

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
# Where Redis lost what it had acknowledged, the leader tells it again within so many looks.
TOLD_AGAIN_S: Final = 5 * LOOK_EVERY_S
# Below the state folder.
PATTERNS: Final = ("owner", "known_hosts", "moves.json", "resized.json", "deployments/*.json", "wishes/*.json")
_NAME: Final = re.compile(r"owner|known_hosts|moves\.json|resized\.json|(?:deployments|wishes)/[\w-]+\.json")
_AGREED: Final = TypeAdapter(tuple[Version, dict[str, str]])  # and digests by name


def secret_of(paths: StatePaths, settings: ClusterSettings) -> bytes:
    """What all machines of a cluster have in common, and Redis has not."""
    given = settings.cache.secret
    return given.get_secret_value().encode() if given is not None else settings_in_use.cache_secret(paths)


def chores_key(paths: StatePaths, settings: ClusterSettings) -> bytes:
    """What changes of models are sealed with on their way through Redis."""
    return hashlib.blake2b(secret_of(paths, settings), digest_size=32, person=b"olm chores").digest()


class Mirror:
    """Of one state folder. `on_taken` is called where something came from another machine."""

    def __init__(self, paths: StatePaths, connection: Connection, secret: bytes, on_taken: Callable[[], None]) -> None:
        self._paths, self._connection, self._on_taken = paths, connection, on_taken
        self._key = hashlib.blake2b(secret, digest_size=32, person=b"olm files").digest()
        self._base = paths.root / "mirror.json"
        self._version, self._agreed = self._read_base()
        self._lost_s: float | None = None  # when Redis was found to have lost something
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
        try:
            await self.agree(begins=False)
            if not (owner := self._paths.owner).exists():
                write_once(owner, settings_in_use.place(self._paths), mode=0o600)
        except StoreError as why:
            log.warning("what another controller left is not known: %s", why)
        except OSError as why:
            raise HostError(f"{self._paths.owner} cannot be written: {why.strerror}") from why

    async def agree(self, *, begins: bool) -> None:
        """Make this folder and Redis the same. `begins`: this controller leads, and tells a Redis that lost something.

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
        digests = {name: each.digest for name, each in here.items()}
        if not self._has_lost(version):
            self._lost_s = None
        if version == self._version and digests == self._agreed:
            return
        if not version.epoch and not begins:
            return
        there = await kept.read(self._connection) if version.epoch else {}
        self._check(here, there)
        agreed: Mapping[str, str] = self._agreed
        if self._has_lost(version):  # what it had acknowledged, or everything: nothing is gone for that
            if begins:
                agreed = _digests(there)
            elif not self._has_waited():
                return
            else:
                agreed = digests
        await self._exchange(version, differences(agreed, digests, _digests(there)), here, there)

    def _has_lost(self, version: Version) -> bool:
        """Whether Redis was further than it is."""
        before = self._version
        return bool(before.epoch) and (version.epoch != before.epoch or version.number < before.number)

    def _has_waited(self) -> bool:
        """Whether the leader has had time to tell Redis again what it lost."""
        now_s = time.monotonic()
        if self._lost_s is None:
            self._lost_s = now_s
        if now_s - self._lost_s < TOLD_AGAIN_S:
            return False
        self._lost_s = None
        return True

    async def _exchange(
        self, version: Version, found: Differences, here: Mapping[str, Kept], there: Mapping[str, Kept]
    ) -> None:
        for name in found.lost:
            log.warning("%s was changed here and on another machine; the other's stands", self._paths.root / name)
        for name in found.taken:
            await asyncio.to_thread(self._take, name, there.get(name))
        given = [name for name in found.given if await self._give(name, here.get(name), there.get(name))]
        same = {**_digests(here), **{name: there[name].digest if name in there else "" for name in found.taken}}
        refused = set(found.given).difference(given)  # changed there meanwhile: to be looked at again
        agreed = {name: digest for name, digest in same.items() if digest and name not in refused}
        # Where somebody else changed something meanwhile, Redis is further than that, and is looked at again.
        epoch = version.epoch or (await kept.version(self._connection)).epoch
        await asyncio.to_thread(self._write_base, Version(epoch, version.number + len(given)), agreed)
        if found.taken:
            self._on_taken()

    def _check(self, here: dict[str, Kept], there: dict[str, Kept]) -> None:
        for name, each in there.items():
            if each.digest != self._digest(name, each.content):
                raise HostError(
                    f"{name} in Redis was not written by a machine with the secret of {self._paths.root}: give all "
                    "machines of a cluster the same `cache.secret`, or the same cache.key in their state folders; "
                    f"where it was changed on all of them, `redis-cli DEL '{KEPT}'`"
                )
        own = sorted(name for name in here if name.startswith("deployments/"))
        if there and not self._agreed and own and any(there.get(name) != here[name] for name in own):
            raise HostError(
                f"{self._paths.root} has deployments of its own, and Redis those of another cluster: begin with an "
                "empty --state here, or name another `redis`"
            )

    async def _give(self, name: str, ours: Kept | None, theirs: Kept | None) -> bool:
        return await kept.put(self._connection, name, theirs.digest if theirs is not None else "", ours)

    # --- files --------------------------------------------------------------------------------------------------------

    def _here(self) -> dict[str, Kept]:
        found = {}
        for pattern in PATTERNS:
            for path in self._paths.root.glob(pattern):
                name = str(path.relative_to(self._paths.root))
                try:
                    content = path.read_bytes()
                except FileNotFoundError:
                    continue  # removed just now
                except OSError as why:
                    raise HostError(f"{path} cannot be read: {why.strerror}") from why
                found[name] = Kept(self._digest(name, content), content)
        return found

    def _take(self, name: str, theirs: Kept | None) -> None:
        path = self._paths.root / name
        if not _NAME.fullmatch(name):
            raise HostError(f"{name!r} in Redis is no file of a state folder")
        try:
            if theirs is None:
                path.unlink(missing_ok=True)
            else:
                path.parent.mkdir(mode=0o700, exist_ok=True)
                write_whole(path, theirs.content, mode=0o600)
        except OSError as why:
            raise HostError(f"{path} cannot be written: {why.strerror}") from why

    def _digest(self, name: str, content: bytes) -> str:
        sealed = hashlib.blake2b(key=self._key, digest_size=16)
        sealed.update(name.encode() + b"\n" + content)
        return sealed.hexdigest()

    def _read_base(self) -> tuple[Version, dict[str, str]]:
        try:
            return _AGREED.validate_json(self._base.read_bytes())
        except FileNotFoundError:
            return Version(), {}
        except (OSError, ValidationError) as why:
            raise HostError(f"{self._base} cannot be read; remove it") from why

    def _write_base(self, version: Version, agreed: dict[str, str]) -> None:
        try:
            write_whole(self._base, _AGREED.dump_json((version, agreed)), mode=0o600)
        except OSError as why:
            raise HostError(f"{self._base} cannot be written: {why.strerror}") from why
        self._version, self._agreed = version, agreed


def _digests(files: Mapping[str, Kept]) -> dict[str, str]:
    return {name: each.digest for name, each in files.items()}
