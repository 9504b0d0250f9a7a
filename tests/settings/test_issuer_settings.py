"""Issuers in `cluster.yaml`: what is wrong is said where it stands, and nobody is let in by having been forgotten."""

from __future__ import annotations

import pytest

from orchestrator.app import settings_in_use
from orchestrator.app.keys import refuse_open_endpoint
from orchestrator.app.paths import StatePaths
from orchestrator.app.rules import keys_of, rules_from
from orchestrator.core.errors import CallerError, SettingsError
from orchestrator.settings import ClusterSettings
from orchestrator.settings.file import parse
from orchestrator.settings.show import show

BASE = "instances: [{url: http://127.0.0.1:1}]\n"
SECRET = "the-secret-of-the-page"
WHOLE = f"""issuers:
  company:
    url: https://login.example.com/
    audience: [ollama]
    grants: {{staff: {{when: {{groups: gpu}}}}}}
    login: {{client_id: page, client_secret: {SECRET}, url: https://gpu.example.com/}}
"""


def read(text: str) -> ClusterSettings:
    return parse(BASE + text, "cluster.yaml")


@pytest.mark.parametrize(
    ("instead", "of", "why"),
    [
        ("http://login.example.com", "https://login.example.com/", "issuers.company.url: expected https://"),
        ("http://10.0.0.5", "https://gpu.example.com/", "issuers.company.login.url: expected https://"),
        ("https://gpu.example.com/status", "https://gpu.example.com/", "login.url: ends behind the host"),
        ("algorithms: [HS256]", "audience: [ollama]", "algorithms[0]: expected RS256, PS256, ES256 or EdDSA"),
        ("algorithms: [none]", "audience: [ollama]", "algorithms[0]: expected RS256"),
        ("algorithms: []", "audience: [ollama]", "algorithms: needs one entry at least"),
        ("leeway_s: 3600", "audience: [ollama]", "leeway_s: expected a whole number"),
        ("{}", "{staff: {when: {groups: gpu}}}", "grants"),
        ("{staff: {}}", "{staff: {when: {groups: gpu}}}", "grants.staff.when: is missing"),
        ("groups: []", "groups: gpu", "grants.staff.when: names no value of 'groups'"),
        ("{groups: gpu}, scopes: []", "{groups: gpu}", "grants.staff.scopes: names none: such a grant opens nothing"),
        ("{groups: gpu}, admin: true, scopes: [infer]", "{groups: gpu}", "grants.staff.admin: is said by `scopes`"),
        ("client_id: page, scopes: [groups]", "client_id: page", "login.scopes: lacks `openid`"),
        ("open: true\nissuers:", "issuers:", "open: is said beside `issuers`"),
        ("client_secret: env:NOT_SET_HERE", f"client_secret: {SECRET}", "variable 'NOT_SET_HERE' is not set"),
        ("jwks_file: none.json", "audience: [ollama]", "jwks_file: no such file"),
    ],
)
def test_what_is_wrong_with_an_issuer_is_said_where_it_stands_without_its_secret(instead, of, why):
    assert of in WHOLE
    with pytest.raises(SettingsError) as refused:
        read(WHOLE.replace(of, instead, 1))
    assert why in str(refused.value)
    assert SECRET not in str(refused.value)


def test_an_issuer_without_an_audience_is_for_logins_alone():
    assert read(WHOLE.replace("audience: [ollama]", "leeway_s: 5")).issuers["company"].audience == ()
    with pytest.raises(SettingsError, match=r"issuers\.company\.audience: is missing"):
        read("".join(line for line in WHOLE.splitlines(True) if "audience" not in line and "login:" not in line))


def test_two_issuers_have_two_addresses_and_one_login(tmp_path):
    other = WHOLE.replace("issuers:\n", "").replace("company", "other")
    with pytest.raises(SettingsError) as refused:
        read(WHOLE + other)
    assert "issuers.other.url: is that of 'company' too" in str(refused.value)
    assert "issuers.other.login: is said of another issuer already" in str(refused.value)


def test_with_an_issuer_an_endpoint_asks_who_it_is_without_any_key():
    settings = read(f"listen: 0.0.0.0:11434\n{WHOLE}")
    refuse_open_endpoint(settings)
    with pytest.raises(SettingsError, match="other machines reach"):
        refuse_open_endpoint(settings.model_copy(update={"issuers": {}}))
    assert settings.asks_who
    with pytest.raises(CallerError, match="an API key is needed"):
        keys_of(settings).caller("")


def test_workers_find_an_issuer_as_it_was_written_and_its_secret_in_a_file_of_its_own(tmp_path):
    settings = read(WHOLE)
    assert SECRET not in show(settings)
    paths = StatePaths(tmp_path / "state")
    paths.root.mkdir()
    settings_in_use.write(paths, settings)
    assert SECRET not in paths.settings.read_text()
    assert (paths.secrets / "+issuer.company").stat().st_mode & 0o777 == 0o600
    found = settings_in_use.read(paths)
    assert found.issuers == settings.issuers
    assert settings_in_use.asking_key(paths), "the cluster's own commands need a key where others do"
    rules = rules_from(found)
    login = rules.issuers["https://login.example.com/"].login
    assert login is not None
    assert (login.back, login.client_secret) == ("https://gpu.example.com/status/login/back", SECRET)
    assert SECRET not in repr(rules)
