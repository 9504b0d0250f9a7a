"""`cluster.yaml` to settings: the one way in. All that is wrong with a file is said at once, with line and field.

It joins the steps (YAML, types, references, sources) and leaves each to its module.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from orchestrator.core.errors import SettingsError
from orchestrator.settings.checks import check
from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.plain_secrets import told_to_all
from orchestrator.settings.positions import MAX_BYTES, FieldPath, Place, read
from orchestrator.settings.problems import Problem, dotted, problems_of
from orchestrator.settings.sources import resolve
from orchestrator.settings.words import field_at, is_list, is_mapping_of_names, may_be_empty

_MAX_PROBLEMS = 100  # a screenful or two; a file with more is not one of ours
_EMPTY = "the file is empty; it needs `models:` or `instances:` at least, or remove it to run with defaults"


def load(path: Path) -> ClusterSettings:
    """Read settings from `path`. Raises SettingsError with one line a problem, `file:line:column: field: why`."""
    return parse(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The file's text. Raises SettingsError where it is missing, closed to us, no file, too large or not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: no such file; create it, or name another") from error
    except IsADirectoryError as error:
        raise SettingsError(f"{path}: is a folder; name a file in it, such as {path / 'cluster.yaml'}") from error
    except PermissionError as error:
        raise SettingsError(f"{path}: may not be read by this user; change its mode or its owner") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        # utf-8-sig: some editors put a mark before the text. Cut at the limit a character may be half: `parse` refuses.
        return data.decode("utf-8-sig", errors="strict" if len(data) <= MAX_BYTES else "replace")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}:{line}: is not UTF-8 text; save it with the encoding UTF-8") from error


def is_open_to_all(path: Path) -> bool:
    """Whether users other than the file's own and its group may read it."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False  # of a text that lies nowhere
    return stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)


def parse(text: str, name: str, environment: Mapping[str, str] = os.environ) -> ClusterSettings:
    """Settings from YAML text. `name` is the file's path: errors say it, and relative paths start at its folder.

    Where everybody may read that file, no secret may stand in it.
    """
    document = read(text)
    found = [(each.place, each.path, each.message) for each in document.flaws]
    if not document.is_readable:
        _refuse(name, found)
    if document.value is None:
        _refuse(name, [(Place(1, 1), (), _EMPTY)])
    if not isinstance(document.value, dict):
        _refuse(name, [(document.place_of(()), (), "expected a mapping, such as `models:`, at the top level")])
    tree = _filled(document.value, ())
    settings, problems = _settle(tree, name, environment)
    found += [(document.place_of(each.path, key=each.at_key), each.path, each.message) for each in problems]
    if found:
        _refuse(name, found)
    return settings


def _refuse(name: str, found: list[tuple[Place, FieldPath, str]]) -> NoReturn:
    found.sort(key=lambda each: (each[0].line, each[0].column))
    lines = [
        f"{name}:{place.line}:{place.column}: {f'{dotted(path)}: ' if path else ''}{message}"
        for place, path, message in found[:_MAX_PROBLEMS]
    ]
    if len(found) > _MAX_PROBLEMS:
        lines.append(f"{name}: and {len(found) - _MAX_PROBLEMS} more")
    raise SettingsError("\n".join(lines))


def _filled(value: Any, path: FieldPath) -> Any:
    """A section or list with nothing under its name (all of it commented out, say) is an empty one."""
    field = field_at(path)
    if value is None and field is not None:
        if may_be_empty(field.annotation) or is_mapping_of_names(field.annotation):
            return {}
        return [] if is_list(field.annotation) else None
    if isinstance(value, dict):
        return {key: _filled(each, (*path, key)) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, (*path, index)) for index, each in enumerate(value)]
    return value


def _settle(tree: Any, name: str, environment: Mapping[str, str]) -> tuple[ClusterSettings, list[Problem]]:
    """Settings, and all problems; where types are wrong, references and sources are checked among what is left."""
    settings, problems, left_out = _validated(tree)
    told = list(told_to_all(settings, name)) if is_open_to_all(Path(name)) else []
    settings, missing = resolve(settings, Path(name).absolute().parent, environment)
    further = [*check(settings, left_out), *missing]
    further += [each for each in told if each.path not in {other.path for other in further}]
    problems += [each for each in further if not any(each.path[: len(path)] == path for path in left_out)]
    return settings, problems


def _validated(tree: Any) -> tuple[ClusterSettings, list[Problem], frozenset[FieldPath]]:
    """Validate; leave out what is wrong and validate the rest, until it holds. The problems are those of the whole."""
    problems: list[Problem] = []
    left_out: set[FieldPath] = set()
    while True:
        try:
            # JSON: strict in what it takes (no `true` for 1, no "4" for 4), yet lists are tuples and texts are paths.
            settings = ClusterSettings.model_validate_json(json.dumps(tree), strict=True)
            return settings, problems, frozenset(left_out)
        except ValidationError as error:
            found = list(problems_of(error, tree))
        problems = problems if left_out else found
        wrong = {_removable(each.path, tree) for each in found}
        # What is wrong in its own stand-in's place cannot be left out: no telling, then, what else is wrong.
        if () in wrong or wrong <= left_out:
            raise SettingsError(f"cannot be read as settings: {found[0].message}")
        left_out |= wrong
        tree = _without(tree, wrong, ())


def _removable(path: FieldPath, tree: Any) -> FieldPath:
    """`path`, or what lacks it where it is required and missing."""
    here = tree
    for index, step in enumerate(path):
        if isinstance(here, dict) and step not in here:
            return path[: max(index, 1)]
        here = here[step]
    return path


def _without(tree: Any, paths: set[FieldPath], at: FieldPath) -> Any:
    if isinstance(tree, dict):
        return {key: _without(each, paths, (*at, key)) for key, each in tree.items() if (*at, key) not in paths}
    if isinstance(tree, list):
        return [
            _stand_in(at[-1], index) if (*at, index) in paths else _without(each, paths, (*at, index))
            for index, each in enumerate(tree)
        ]
    return tree


def _stand_in(section: str | int, index: int) -> Any:
    """What is valid where a list has an item that is not; without it, later items would change their numbers."""
    name = f"unread-{index}"
    stand_ins = {
        "nodes": {"name": name},
        "keys": {"name": name, "secret": name},
        "instances": {"url": f"http://{name}:1"},
        "escalate_if": {},
        "scopes": "infer",
        "algorithms": "RS256",
        "old": {"digest": f"sha256:{64 * '0'}", "until": "1970-01-01"},
        **dict.fromkeys(("listen", "redirect_from", "gateways"), f"{name}:1"),
        **dict.fromkeys(("trusted_proxies", "operators", "fronts"), "127.0.0.1"),
    }
    return stand_ins.get(str(section), name)
