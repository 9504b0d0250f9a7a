"""What may leave the cluster, as settings say it: classes, words, and nothing that no call would meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.app.private import privacy_rules, words_from
from orchestrator.app.rules import rules_from
from orchestrator.core.errors import SettingsError
from orchestrator.core.privacy import Kind, Privacy, judge
from orchestrator.settings import ClusterSettings
from orchestrator.settings.file import load, parse

WORLD = """
models: {little: {}}
providers: {out: {url: "https://out.example.com/v1", accepts: %s}}
tiers:
  small: {model: little, backup: far}
  far: {model: far-8b, provider: out}
routes: {auto: {full: small}, away: {primary: far%s}}
"""


def world(more: str = "", accepts: str = "public", away: str = "") -> str:
    return WORLD % (accepts, away) + more


@pytest.mark.parametrize(
    "text",
    [
        world(),
        world("privacy: {default: internal, classes: {health: internal, identity number: public}}", "internal"),
        world("privacy: {detect: false, attachments: public}"),
        world(away=", privacy: internal", accepts="internal"),
        world("keys: [{name: hr, secret: 0123456789abcdef, privacy: local}]"),
        "models: {little: {}}\nprivacy: {default: local}",  # said before there is anybody outside
        "models: {little: {}}\nlogs: {texts: redacted}",
    ],
)
def test_what_makes_sense_is_taken(text):
    assert isinstance(parse(text, "cluster.yaml"), ClusterSettings)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (world("privacy: {default: secret}"), "privacy.default: expected public, internal or local"),
        (world("privacy: {header: true}"), "privacy.header: no such setting"),
        (world("privacy: {classes: {ssn: local}}"), "'ssn' cannot be a name here; expected e-mail, phone, iban"),
        (world("privacy: {detect: false, classes: {iban: internal}}"), "privacy.classes: is of no use with `detect: f"),
        (world("privacy: {detect: false, search_letters: 4096}"), "privacy.search_letters: is of no use with `detect"),
        (world("privacy: {classes: {word: local}}"), "privacy.classes.word: needs `words` to look for"),
        (world("privacy: {default: internal}"), "tiers.far.provider: every call is `internal` at least"),
        (world("privacy: {default: local}", "internal"), "tiers.far.provider: every call is `local` at least"),
        (world(away=", privacy: local"), "routes.away.privacy: none of its tiers may answer `local` calls"),
        (world(away=", privacy: internal"), "routes.away.privacy: none of its tiers may answer `internal` calls"),
        (world(away=", privacy: public"), "routes.away.privacy: expected internal or local"),
        (world("logs: {texts: all}"), "logs.texts: expected off or redacted"),
    ],
)
def test_what_no_call_would_meet_is_refused_with_its_place_and_the_way_out(text, told):
    with pytest.raises(SettingsError) as refused:
        parse(text, "cluster.yaml")
    assert told in str(refused.value)


def test_a_route_of_local_calls_with_a_pool_behind_its_provider_is_fine():
    text = world(away=", privacy: local").replace("provider: out}", "provider: out, backup: small}")
    assert parse(text, "cluster.yaml").routes["away"].privacy == "local"


def test_classes_that_are_named_replace_the_usual_ones_and_the_others_stay():
    rules = privacy_rules(parse(world("privacy: {classes: {health: internal, e-mail: local}}"), "x").privacy)
    assert (rules.classes[Kind.HEALTH], rules.classes[Kind.EMAIL]) == (Privacy.INTERNAL, Privacy.LOCAL)
    assert (rules.classes[Kind.IBAN], rules.classes[Kind.PHONE]) == (Privacy.LOCAL, Privacy.INTERNAL)


def test_routes_and_keys_have_their_classes_in_the_gateways_rules():
    text = world("keys: [{name: hr, secret: 0123456789abcdef, privacy: local}, {name: web, secret: fedcba9876543210}]")
    rules = rules_from(parse(text.replace("primary: far", "primary: small, privacy: internal"), "x"))
    assert (rules.routes["away"].privacy, rules.routes["auto"].privacy) == (Privacy.INTERNAL, None)
    classes = [rules.keys.caller(f"Bearer {secret}").privacy for secret in ("0123456789abcdef", "fedcba9876543210")]
    assert classes == [Privacy.LOCAL, None]
    assert rules.tiers["small"].accepts is Privacy.LOCAL
    assert rules.tiers["far"].accepts is Privacy.PUBLIC


def test_files_of_words_lie_beside_the_settings_and_are_read(tmp_path: Path):
    (tmp_path / "words.txt").write_text("# projects\nKızılelma*\n", encoding="utf-8")
    (tmp_path / "cluster.yaml").write_text(world("privacy: {words: [words.txt]}"), encoding="utf-8")
    rules = privacy_rules(load(tmp_path / "cluster.yaml").privacy)
    assert judge("KIZILELMA'nın bütçesi", rules).privacy is Privacy.LOCAL


def test_files_of_words_that_are_not_there_or_not_fit_are_told_of(tmp_path: Path):
    (tmp_path / "cluster.yaml").write_text(world("privacy: {words: [words.txt]}"), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"privacy\.words\[0\]: no such file"):
        load(tmp_path / "cluster.yaml")
    (tmp_path / "one.txt").write_text("fine\nab\n", encoding="utf-8")
    (tmp_path / "two.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError) as told:
        words_from([tmp_path / "one.txt", tmp_path / "two.txt"])
    assert "one.txt: line 2: has fewer than 3 letters" in str(told.value)
    assert "two.txt: cannot be read" in str(told.value)
