"""An evaluation that comes round needs a set, somebody who is asked, and somebody who asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.errors import SettingsError
from orchestrator.settings import ClusterSettings, parse
from orchestrator.settings.file import load

BASE = "models: {m: }\ntiers: {small: {model: m}, full: {model: m}}\nroutes: {auto: }\n"
KEYS = "keys: [{name: eval, secret: 0123456789abcdef}]\n"
PROVIDED = (
    "models: {m: }\nproviders: {mistral: {key: 0123456789abcdef}}\nroutes: {auto: {full: far}}\n"
    "tiers: {small: {model: m}, far: {model: mistral-small-latest, provider: mistral}}\n"
)


def in_folder(folder: Path, text: str) -> ClusterSettings:
    (folder / "set.jsonl").write_text("{}")
    (folder / "cluster.yaml").touch(mode=0o600)
    (folder / "cluster.yaml").write_text(text)
    return load(folder / "cluster.yaml")


def test_nothing_is_evaluated_by_default() -> None:
    assert parse(BASE, "cluster.yaml").eval.set is None


def test_a_set_lies_beside_the_file_and_tiers_routes_and_models_are_asked(tmp_path: Path) -> None:
    told = in_folder(tmp_path, f"{BASE}{KEYS}eval: {{set: set.jsonl, targets: [small, auto, m], key: eval}}\n").eval
    assert (told.set, told.targets, told.every_s) == (tmp_path / "set.jsonl", ("small", "auto", "m"), 86_400)


@pytest.mark.parametrize("keys", ["", KEYS.replace("}]", ", admin: true}]")])
def test_a_providers_tier_is_asked_like_the_others_by_who_may_name_it(tmp_path: Path, keys: str) -> None:
    asks = ", key: eval" if keys else ""
    assert in_folder(tmp_path, f"{PROVIDED}{keys}eval: {{set: set.jsonl, targets: [small, far]{asks}}}\n").eval.targets


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{BASE}eval: {{set: set.jsonl}}", "eval.set: nobody is asked it; name tiers, routes or models as `targets`"),
        (f"{BASE}eval: {{set: set.jsonl, targets: [smal]}}", "no such target 'smal'; did you mean 'small'?"),
        (f"{BASE}eval: {{every_s: 60}}", "eval.every_s: is of no use without a `set` of questions; name one, or leave"),
        (f"{BASE}eval: {{set: other.jsonl, targets: [small]}}", "eval.set: no such file: "),
        (
            f"{BASE}{KEYS}eval: {{set: set.jsonl, targets: [small]}}",
            "is asked by nobody who is known; name a `key`",
        ),
        (
            f"{BASE}{KEYS}eval: {{set: set.jsonl, targets: [small], key: evil}}",
            "no such key 'evil'; did you mean",
        ),
        (
            f"{PROVIDED}{KEYS}eval: {{set: set.jsonl, targets: [far], key: eval}}",
            "'far' is a provider's, which 'eval' may not ask by name; give it `admin: true`",
        ),
    ],
)
def test_what_an_evaluation_lacks_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SettingsError) as raised:
        in_folder(tmp_path, text)
    assert told in str(raised.value)
