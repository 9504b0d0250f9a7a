"""Keys in `cluster.yaml`: what each says once and no more, and when an endpoint is open to anybody."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.app.keys import refuse_open_endpoint
from orchestrator.app.rules import keys_of
from orchestrator.core.errors import SettingsError
from orchestrator.settings import ClusterSettings
from orchestrator.settings.file import parse
from orchestrator.settings.moments import moment_of, span_of, written
from orchestrator.settings.section import PATTERN_WORDS
from orchestrator.settings.show import show

SECRET = "0123456789abcdef"
DIGEST = f"sha256:{hashlib.sha256(SECRET.encode()).hexdigest()}"
BASE = "instances: [{url: http://127.0.0.1:1}]\n"


def read(text: str) -> ClusterSettings:
    return parse(BASE + text, "cluster.yaml")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("keys: [{name: a}]", "keys[0].secret: is missing; write it, or the `digest`"),
        (
            f"keys: [{{name: a, secret: {SECRET}, digest: '{DIGEST}'}}]",
            "keys[0].digest: is of the `secret` that",
        ),
        ("keys: [{name: a, digest: sha256:abc}]", "keys[0].digest: expected sha256: and 64 digits of 0-9 and a-f"),
        (f"keys: [{{name: a, secret: {SECRET}, admin: true, scopes: [infer]}}]", "keys[0].admin: is said by `scopes`"),
        (f"keys: [{{name: a, secret: {SECRET}, scopes: [ask]}}]", "scopes[0]: expected infer, admin or models"),
        (f"keys: [{{name: a, secret: {SECRET}, scopes: []}}]", "keys[0].scopes: names none"),
        (f"keys: [{{name: a, secret: {SECRET}, models: []}}]", "keys[0].models: names none"),
        (
            f"keys: [{{name: a, secret: {SECRET}, priority: 10}}]",
            "keys[0].priority: expected a whole number",
        ),
        (
            f"keys: [{{name: {65 * 'ş'}, secret: {SECRET}}}]",
            "keys[0].name: expected letters, digits and _ . @ -, at most",
        ),
        (f"keys: [{{name: '', secret: {SECRET}}}]", "keys[0].name: expected letters, digits and _ . @ -, at most 64"),
        (f'keys: [{{name: "a\\n", secret: {SECRET}}}]', "keys[0].name: expected letters, digits and _ . @ -, at most"),
        (f"keys: [{{name: a, secret: {SECRET}, expires: soon}}]", "keys[0].expires: expected a day such as 2027-01-31"),
        (f"keys: [{{name: a, secret: {SECRET}, expires: 2027-01-31T10:00:00}}]", "expires: names no zone; write a Z"),
        (f"keys: [{{name: a, secret: {SECRET}, old: [{{digest: '{DIGEST}'}}]}}]", "keys[0].old[0].until: is missing"),
        (f"keys: [{{name: ollamactl, secret: {SECRET}}}]", "keys[0].name: 'ollamactl' is the cluster's own key"),
        (f"keys: [{{name: a, secret: {SECRET}}}, {{name: b, digest: '{DIGEST}'}}]", "is the secret of key 'a' too"),
        (f"keys: [{{name: a, secret: {SECRET}}}]\nopen: true", "open: is said beside `keys`"),
        ("keys_file: keys.json\nopen: true", "open: is said beside `keys_file`"),
        (
            f"eval: {{set: x, targets: [m], key: a}}\nkeys: [{{name: a, digest: '{DIGEST}'}}]",
            "a digest is no key",
        ),
    ],
)
def test_what_is_wrong_with_a_key_is_said_where_it_stands_without_its_secret(text, why):
    with pytest.raises(SettingsError) as refused:
        read(text)
    assert why in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_digest_opens_what_its_secret_would_and_is_shown_while_secrets_are_masked():
    settings = read(f"keys: [{{name: a, digest: '{DIGEST}'}}, {{name: b, secret: {SECRET[::-1]}}}]")
    assert keys_of(settings).caller(f"Bearer {SECRET}").name == "a"
    shown = show(settings)
    assert DIGEST in shown
    assert SECRET[::-1] not in shown


def test_a_file_of_keys_is_named_from_the_settings_folder(tmp_path):
    (tmp_path / "cluster.yaml").write_text("")
    settings = parse(BASE + "keys_file: sub/keys.json", str(tmp_path / "cluster.yaml"))
    assert settings.keys_file == tmp_path / "sub" / "keys.json"


@pytest.mark.parametrize(
    ("listen", "more", "is_refused"),
    [
        (None, "", False),
        ("127.0.0.1:1", "", False),
        ("'[::1]:1'", "", False),
        ("localhost:1", "", False),
        ("0.0.0.0:1", "", True),
        ("'[::]:1'", "", True),
        ("10.0.0.5:1", "", True),
        ("gpu-1:1", "", True),
        ("0.0.0.0:1", "open: true", False),
        ("0.0.0.0:1", "open: false", False),
        ("0.0.0.0:1", f"keys: [{{name: a, secret: {SECRET}}}]", False),
    ],
)
def test_an_endpoint_that_other_machines_reach_needs_a_key_or_a_word_that_it_is_meant(listen, more, is_refused):
    settings = read(f"listen: {listen}\n{more}" if listen else more)
    if not is_refused:
        refuse_open_endpoint(settings)
        return
    with pytest.raises(SettingsError, match="without keys anybody there may ask"):
        refuse_open_endpoint(settings)


def test_open_false_lets_nobody_in_before_there_is_a_key():
    assert not keys_of(read("open: false")).is_open
    assert keys_of(read("open: true")).is_open
    assert keys_of(read("")).is_open


def test_moments_are_days_in_utc_or_times_with_a_zone_and_come_back_as_they_were():
    assert moment_of("2027-01-31") == datetime(2027, 1, 31, tzinfo=UTC)
    assert moment_of("2027-01-31T02:00:00+02:00") == datetime(2027, 1, 31, tzinfo=UTC)
    assert written(moment_of("2027-01-31T02:00:00.5+02:00")) == "2027-01-31T00:00:00Z"
    assert (span_of("90d"), span_of("0s"), span_of("2w")) == (timedelta(days=90), timedelta(), timedelta(days=14))
    for wrong in ("2027-13-01", "", "٢٠٢٧-٠١-٠١", "2027-01-31T10:00"):
        with pytest.raises(ValueError, match=r"expected a day|names no zone"):
            moment_of(wrong)
    for wrong in ("90", "d", "-1d", "1.5h", "1y"):
        with pytest.raises(ValueError, match="expected a length of time"):
            span_of(wrong)


def test_no_pattern_counts_letters_of_every_alphabet():
    """What the settings are checked by holds a state for each letter and each number of them: MiB of each process."""
    assert [each for each in PATTERN_WORDS if "\\w" in each and "{" in each] == []
