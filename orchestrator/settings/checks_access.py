"""What settings of who may ask must be together: a key says once what it is known by, and once what it may do.

Pure, as `checks`, which calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from orchestrator.settings.access import OWN_NAME, KeySettings
from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.problems import Problem

Lacks = Callable[..., bool]


def check_access(settings: ClusterSettings, lacks: Lacks) -> list[Problem]:
    """Every problem with keys, and with being open beside them."""
    problems = [*_open(settings, lacks)]
    for index, key in enumerate(settings.keys):
        if not lacks("keys", index):
            # What is missing is said where it should stand.
            problems += (Problem(("keys", index, at), why, at_key=at == "secret") for at, why in _key(key, settings))
    return problems


def _key(key: KeySettings, settings: ClusterSettings) -> Iterator[tuple[str, str]]:
    """What is wrong with one, and in which of its fields."""
    if key.name == OWN_NAME:
        yield "name", f"{OWN_NAME!r} is the cluster's own key; give this one another name"
    if key.secret is None and key.digest is None:
        yield "secret", "is missing; write it, or the `digest` that the key is known by"
    elif key.secret is not None and key.digest is not None:
        yield "digest", "is of the `secret` that stands here already; leave one of them out"
    if key.admin and key.scopes is not None:
        yield "admin", "is said by `scopes`; add `admin` there, or leave one of them out"
    if key.scopes == ():
        yield "scopes", "names none: such a key opens nothing; leave it out for `infer`, or take the key out"
    if key.models == ():
        yield "models", "names none: such a key could ask nothing; leave it out for all of them"
    if settings.eval.set is not None and settings.eval.key == key.name:
        if key.secret is None:
            yield "digest", "`eval.key` names this key, and a digest is no key to ask by; write its `secret`"
        elif "infer" not in key.granted:
            yield "scopes", "`eval.key` names this key, and it may not ask models; add `infer`"


def _open(settings: ClusterSettings, lacks: Lacks) -> Iterator[Problem]:
    """Being open to anybody and asking for keys at once cannot be meant."""
    if settings.open and not lacks("open"):
        if settings.keys_file is not None:
            yield Problem(("open",), "is said beside `keys_file`, and with keys nobody is let in without one; choose")
        elif settings.keys:
            yield Problem(("open",), "is said beside `keys`, and with keys nobody is let in without one; choose")
