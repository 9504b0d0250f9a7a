"""`ollamactl keys`: the file changed as its only writer, written down in the audit log, and waited for."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click

from orchestrator.app import audit
from orchestrator.app import key_changes as changes
from orchestrator.app.key_changes import Made, Place, all_of, check_beside, ends_soon, find_place, today
from orchestrator.app.keys import KeptKeys, Writing, changing, read_keys
from orchestrator.app.paths import StatePaths
from orchestrator.cli.output import console, draw, errors, literal, table
from orchestrator.core.errors import HostError
from orchestrator.settings.access import KeptKey, KeySettings
from orchestrator.settings.moments import moment_of, span_of, written

# The supervisor hears of a change at once, or within a few seconds where the file system tells of none.
IN_FORCE_WITHIN_S: Final = 10.0
# How a caller shows it, for who hands it out.
HANDED_OUT: Final = (
    "Callers send it as `Authorization: Bearer SECRET` or `X-Api-Key: SECRET`; their libraries take it from "
    "OPENAI_API_KEY or ANTHROPIC_API_KEY, `ollamactl` from OLLAMACTL_KEY."
)


@dataclass(frozen=True, slots=True)
class Where:
    """Whose keys are meant, as the command line says it."""

    state: Path
    config: Path | None
    file: Path | None

    @property
    def paths(self) -> StatePaths:
        return StatePaths(self.state.absolute())

    def place(self) -> Place:
        """Where the keys are. Raises HostError where what is written would be somebody else's to read."""
        root = self.paths.root
        owner = root.stat().st_uid if root.exists() else os.geteuid()
        if owner != os.geteuid():
            name = _user(owner)
            raise HostError(f"{root} belongs to {name}, whose cluster could not read what you write; `sudo -u {name}`")
        return find_place(self.paths, self.config, self.file)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def end_of(given: str) -> str:
    """A day, a time or `never` as it stands; a length of time from now on. Raises ValueError."""
    if given == changes.NEVER:
        return given
    try:
        return written(today() + span_of(given))
    except ValueError:
        moment_of(given)
        return given


def run_create(where: Where, fields: Mapping[str, Any], *, as_json: bool) -> int:
    """Make a key and print it."""
    place = where.place()
    with changing(place.file) as writing:
        is_first = changes.closes(writing.kept, place)
        kept, made = changes.create(writing.kept, place, fields, today())
        _keep(where, place, writing, kept, "create key", made.key.name)
    _tell_made(place, made, as_json=as_json, also={"closes_endpoint": is_first})
    if is_first:
        _tell_closed(place, made.key)
    return 0


def run_rotate(where: Where, name: str, overlap: timedelta, *, as_json: bool) -> int:
    """Give a key a new secret and print it."""
    place, now = where.place(), today()
    with changing(place.file) as writing:
        kept, made = changes.rotate(writing.kept, name, now, overlap)
        _keep(where, place, writing, kept, "rotate key", name)
    _tell_made(place, made, as_json=as_json)
    return 0


def run_change(where: Where, name: str, fields: Mapping[str, Any], *, as_json: bool) -> int:
    """Give a key other terms."""
    if not fields:
        raise click.UsageError("say what is to be another: --model, --expires, --rpm and so on")
    place = where.place()
    with changing(place.file) as writing:
        kept, changed = changes.change(writing.kept, name, fields)
        _keep(where, place, writing, kept, "change key", name)
    _tell(changed, str(place.file), as_json=as_json)
    return 0


def run_revoke(where: Where, names: tuple[str, ...]) -> int:
    """Take keys back."""
    place = where.place()
    with changing(place.file) as writing:
        kept = changes.revoke(writing.kept, names)
        _keep(where, place, writing, kept, "revoke key", ", ".join(names))
    console.print(f"revoked: {literal(', '.join(names))}")
    if not kept.keys and not place.beside:
        console.print("no key is left: nobody is let in until there is one (`ollamactl keys create NAME`)")
    return 0


def run_list(where: Where, *, as_json: bool) -> int:
    """Print every key."""
    place, now = where.place(), today()
    found = all_of(where.paths, place)
    if as_json:
        click.echo(json.dumps([_in_words(key, file) for key, file in found], indent=2, ensure_ascii=False))
        return 0
    if not found:
        is_open = changes.closes(read_keys(place.file), place)
        everybody = "whoever reaches the endpoint may ask" if is_open else "nobody is let in"
        then = ", and from then on every caller needs one" if is_open else ""
        console.print(f"no keys: {everybody}; `ollamactl keys create NAME` makes the first{then}", soft_wrap=True)
        return 0
    drawn = table("Name", "Secret", "Scopes", "Models", "Class", "Tenant", "Ends", "Limits", "In")
    for key, file in found:
        ends = key.expires or "never"
        ends = f"[yellow]{literal(ends)}[/yellow]" if ends_soon(key, now) else literal(ends)
        said = _in_words(key, file)
        limits = ", ".join(f"{name} {amount:g}" for name, amount in said.get("limits", {}).items())
        models = literal(", ".join(key.models)) if key.models is not None else "all"
        prefix = literal(f"{key.prefix}…") if isinstance(key, KeptKey) else ""
        scopes = ", ".join(key.granted)
        drawn.add_row(
            *(literal(key.name), prefix, scopes, models, str(key.priority), literal(key.tenant or ""), ends, limits),
            literal(file),
        )
    draw(drawn)
    return 0


def run_show(where: Where, name: str, *, as_json: bool) -> int:
    """Print one key."""
    found = all_of(where.paths, where.place())
    key, file = _one(found, name)
    _tell(key, file, as_json=as_json)
    return 0


def _one(found: tuple[tuple[KeySettings, str], ...], name: str) -> tuple[KeySettings, str]:
    """By its name, or by a secret's first characters."""
    for key, file in found:
        if key.name == name or (isinstance(key, KeptKey) and key.prefix and name.startswith(key.prefix)):
            return key, file
    raise HostError(f"there is no key {name!r} here; `ollamactl keys list` shows them")


def _keep(where: Where, place: Place, writing: Writing, kept: KeptKeys, act: str, name: str) -> None:
    """Write it down, then do it; a cluster that runs here has it when this returns."""
    check_beside(kept, place)
    where.paths.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    audit.record(where.paths.audit, getpass.getuser(), "command", act, name)
    writing.keep(kept.keys)
    if place.is_in_use:
        _wait(where, kept)


def _wait(where: Where, kept: KeptKeys) -> None:
    async def in_force() -> None:
        async with asyncio.timeout(IN_FORCE_WITHIN_S):
            await changes.until_in_force(where.paths, kept)

    try:
        asyncio.run(in_force())
    except TimeoutError:
        errors.print("[yellow]the cluster has not taken this over yet: `ollamactl status` says why[/yellow]")


def _tell_made(place: Place, made: Made, *, as_json: bool, also: Mapping[str, bool] | None = None) -> None:
    if as_json:
        told = {"secret": made.secret, **_in_words(made.key, str(place.file)), **(also or {})}
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    _tell(made.key, str(place.file), as_json=False)
    console.print(f"{'secret':<10} {made.secret}")
    console.print("This is the only time that it is shown: only its digest is kept.")
    console.print(HANDED_OUT, soft_wrap=True)


def _tell_closed(place: Place, key: KeySettings) -> None:
    """What the first key means for everybody who asked without one; on stderr, as --json has stdout."""
    asks = "from now on the endpoint asks" if place.is_in_use else f"a cluster that starts with {place.file} asks"
    told = [f"the first key: {asks} every caller for one, and answers 401 without"]
    if place.settings is not None and place.settings.open:
        told.append("`open: true` holds no more")
    if "admin" not in key.granted:
        told.append("the status page and /metrics need one with `--scope admin`, which this one has not")
    for each in told:
        errors.print(f"[yellow]note:[/yellow] {literal(each)}", soft_wrap=True)


def _tell(key: KeySettings, file: str, *, as_json: bool) -> None:
    told = _in_words(key, file)
    if as_json:
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    for name, value in told.items():
        console.print(f"{name:<10} {literal(_as_text(value))}")


def _in_words(key: KeySettings, file: str) -> dict[str, Any]:
    """A key without what it is known by."""
    told = key.model_dump(mode="json", exclude_none=True, exclude={"secret", "digest", "admin", "old", "scopes"})
    old = [each.until for each in key.old]
    limits = told.pop("limits", {})
    told = {"name": told.pop("name"), "scopes": list(key.granted), **told}
    return {**told, **({"limits": limits} if limits else {}), **({"old_until": old} if old else {}), "in": file}


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {amount:g}" for name, amount in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
