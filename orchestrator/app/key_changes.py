"""What `ollamactl keys` does to kept keys: one made, given a new secret, changed, taken back; and who is there at all.

Secrets are made here, told to whoever asked for them, and kept nowhere.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from orchestrator.app import settings_in_use
from orchestrator.app.keys import KeptKeys, joined, own_of, parse_keys, place_of, read_keys, read_text
from orchestrator.app.paths import StatePaths
from orchestrator.core.errors import HostError, SettingsError
from orchestrator.gateway.identity import SOON_S
from orchestrator.nodes.state_lock import read_holder
from orchestrator.settings import ClusterSettings
from orchestrator.settings.access import OWN_NAME, KeptKey, KeySettings, OldSecretSettings, digest_text
from orchestrator.settings.looking import look
from orchestrator.settings.moments import unix_of, written
from orchestrator.settings.watch import FileWatch

MARK: Final = "olm_"
# 43 letters and digits hold 256 bits; those of them that are kept to know a secret by leave 220.
LETTERS: Final = 43
PREFIX_LETTERS: Final = len(MARK) + 6
# So long a caller with a secret of before is told that it was replaced, and not only that it is none.
REMEMBERED: Final = timedelta(days=30)
# What an end is called that a key has not.
NEVER: Final = "never"


@dataclass(frozen=True, slots=True)
class Made:
    """A key, and its secret, which nobody can tell again."""

    key: KeptKey
    secret: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where keys are kept, and beside which settings."""

    file: Path
    settings: ClusterSettings | None  # None: there are none to be read here
    is_in_use: bool  # by a cluster that runs

    @property
    def beside(self) -> tuple[KeySettings, ...]:
        """Keys of `cluster.yaml`."""
        return () if self.settings is None else own_of(self.settings)


def find_place(paths: StatePaths, config: Path | None, file: Path | None) -> Place:
    """The file named, or the one of the cluster that runs, or of the configuration. Raises SettingsError, HostError."""
    if read_holder(paths.root) is not None and paths.settings.exists():
        settings = settings_in_use.read(paths)
        place = place_of(settings, paths)
        return Place(file or place, settings, file is None or file.resolve() == place.resolve())
    if file is not None:
        return Place(file, None, is_in_use=False)
    found = look(config).settings if config is not None else None  # its secrets are of no use here
    return Place(paths.keys if found is None else place_of(found, paths), found, is_in_use=False)


def closes(kept: KeptKeys, place: Place) -> bool:
    """Whether the next key is the first: an endpoint that asks nobody who they are lets in nobody without one then."""
    return not kept.is_there and (place.settings is None or not place.settings.asks_who)


def create(kept: KeptKeys, place: Place, fields: Mapping[str, Any], now: datetime) -> tuple[KeptKeys, Made]:
    """One more key. Raises SettingsError, HostError where there is one of its name."""
    name = fields["name"]
    if kept.named(name) is not None:
        raise HostError(f"there is a key {name!r} already; `ollamactl keys rotate {name}` gives it a new secret")
    if name == OWN_NAME or name in {each.name for each in place.beside}:
        raise HostError(f"there is a key {name!r} already, which is not kept here; take another name")
    secret = new_secret()
    made = _made({**fields, **_known_by(secret), "created": written(now)})
    return KeptKeys((*kept.keys, made)), Made(made, secret)


def rotate(kept: KeptKeys, name: str, now: datetime, overlap: timedelta) -> tuple[KeptKeys, Made]:
    """A new secret; every one of before ends after `overlap` at the latest. Raises HostError for an unknown name."""
    key, secret = _named(kept, name), new_secret()
    until = now + overlap
    assert key.digest is not None, "no other key is kept"
    olds = [OldSecretSettings(digest=key.digest, until=written(until))]
    for old in key.old:
        if unix_of(old.until) > (now - REMEMBERED).timestamp():
            olds.append(old.model_copy(update={"until": min(old.until, written(until), key=unix_of)}))
    changed = key.model_copy(update={**_known_by(secret), "old": tuple(olds), "rotated": written(now)})
    return _with(kept, changed), Made(changed, secret)


def change(kept: KeptKeys, name: str, fields: Mapping[str, Any]) -> tuple[KeptKeys, KeptKey]:
    """Other terms for the same secret. Raises HostError for an unknown name."""
    key = _named(kept, name)
    limits = {**key.limits.model_dump(exclude_none=True), **fields.get("limits", {})}
    changed = _made({**key.model_dump(exclude_unset=True), **fields, "limits": limits})
    return _with(kept, changed), changed


def revoke(kept: KeptKeys, names: tuple[str, ...]) -> KeptKeys:
    """Without these keys. Raises HostError for an unknown name: then none is taken back."""
    gone = {_named(kept, name).name for name in names}
    return KeptKeys(tuple(each for each in kept.keys if each.name not in gone))


def new_secret() -> str:
    """Letters and digits alone, so that it goes through every shell and header; its mark tells scanners what it is."""
    alphabet = string.ascii_letters + string.digits
    return MARK + "".join(secrets.choice(alphabet) for _ in range(LETTERS))


def ends_soon(key: KeySettings, now: datetime) -> bool:
    """Whether it ends within days, or has ended."""
    return key.expires is not None and unix_of(key.expires) - now.timestamp() < SOON_S


def check_beside(kept: KeptKeys, place: Place) -> None:
    """Raise SettingsError where kept keys and those of `cluster.yaml` cannot be in force together."""
    if place.settings is not None:
        joined(place.settings.model_copy(update={"keys": place.beside}), kept)


async def until_in_force(paths: StatePaths, wanted: KeptKeys) -> None:
    """Return once the cluster that runs here has these keys."""
    place = paths.keys_in_use
    watch = FileWatch(place, lambda: read_text(place), lambda text: parse_keys(text, place), current=KeptKeys())
    changes = watch.changes()
    try:
        async for seen in changes:
            if isinstance(seen, KeptKeys) and tuple(each for each in seen.keys if each.name != OWN_NAME) == wanted.keys:
                return
    finally:
        await changes.aclose()


def all_of(paths: StatePaths, place: Place) -> tuple[tuple[KeySettings, str], ...]:
    """Every key, and which file it stands in."""
    kept = read_keys(place.file)
    own = [(each, "cluster.yaml") for each in place.beside]
    return (*own, *((each, str(place.file)) for each in kept.keys))


def today() -> datetime:
    return datetime.now(UTC)


def _known_by(secret: str) -> dict[str, str]:
    return {"digest": digest_text(secret), "prefix": secret[:PREFIX_LETTERS]}


def _made(fields: Mapping[str, Any]) -> KeptKey:
    end = fields.get("expires")
    try:
        return KeptKey.model_validate({**fields, "expires": None if end == NEVER else end})
    except ValidationError as why:
        first = why.errors(include_url=False, include_input=False)[0]
        raise SettingsError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from why


def _named(kept: KeptKeys, name: str) -> KeptKey:
    found = kept.named(name)
    if found is None:
        names = ", ".join(each.name for each in kept.keys) or "none"
        raise HostError(f"there is no key {name!r} here; those kept: {names}")
    return found


def _with(kept: KeptKeys, changed: KeptKey) -> KeptKeys:
    return KeptKeys(tuple(changed if each.name == changed.name else each for each in kept.keys))
