"""The keys that kept answers are sealed with: from the environment and from files, refused where unfit, never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.app.rules import rules_from
from orchestrator.core.errors import SettingsError
from orchestrator.settings import load, show

SECRETS = ("0123456789abcdef", "fedcba9876543210")
SHARED = "s3cret-of-every-gateway-of-this-cluster"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a cluster.yaml with this `cache`, beside a file with the second secret."""
    monkeypatch.setenv("CACHE_KEY", SECRETS[0])
    monkeypatch.setenv("CACHE_SECRET", SHARED)
    (tmp_path / "old.key").write_text(SECRETS[1])
    (tmp_path / "old.key").chmod(0o600)

    def file(cache: str) -> Path:
        path = tmp_path / "cluster.yaml"
        path.write_text(f"models: {{m: {{}}}}\ncache: {cache}\n")
        return path

    return file


def test_keys_come_from_the_environment_and_from_files_and_are_never_shown(write):
    settings = load(write("{encryption_key: 'env:CACHE_KEY', old_encryption_keys: ['file:old.key']}"))
    cache = settings.cache
    assert cache.encryption_key is not None
    found = (cache.encryption_key, *cache.old_encryption_keys)
    assert tuple(each.get_secret_value() for each in found) == SECRETS
    assert not any(secret in show(settings) or secret in repr(settings) for secret in SECRETS)


def test_the_children_of_a_running_cluster_read_the_same_keys_and_files_of_theirs_are_private(write, tmp_path):
    settings = load(write("{encryption_key: 'env:CACHE_KEY', old_encryption_keys: ['file:old.key']}"))
    paths = StatePaths(tmp_path / "state")
    paths.root.mkdir()
    settings_in_use.write(paths, settings)
    assert settings_in_use.read(paths).cache == settings.cache
    assert not any(secret in paths.settings.read_text() for secret in SECRETS)
    assert {each.stat().st_mode & 0o777 for each in paths.secrets.iterdir()} == {0o600}


def test_a_secret_that_gateways_share_comes_and_stays_as_a_secret(write, tmp_path):
    settings = load(write("{secret: 'env:CACHE_SECRET'}"))
    paths = StatePaths(tmp_path / "state")
    paths.root.mkdir()
    settings_in_use.write(paths, settings)
    assert settings_in_use.read(paths).cache == settings.cache
    assert rules_from(settings).cache.secret == SHARED.encode()
    assert not any(SHARED in told for told in (show(settings), repr(rules_from(settings)), paths.settings.read_text()))
    assert {each.stat().st_mode & 0o777 for each in paths.secrets.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("cache", "told"),
    [
        ("{secret: 0123456789abcdef0123456789abcde}", "cache.secret.*31 characters, at least 32"),
        ("{secret: 'env:NO_SUCH'}", "cache.secret.*'NO_SUCH' is not set"),
        ("{encryption_key: short}", "cache.encryption_key.*at least 16"),
        ("{encryption_key: 'env:NO_SUCH'}", "'NO_SUCH' is not set"),
        ("{encryption_key: 'file:no.key'}", "no such file"),
        ("{encryption_key: '********'}", "a mask printed in a secret's place"),
        ("{old_encryption_keys: ['file:old.key']}", "cache.old_encryption_keys.*beside `encryption_key` alone"),
        ("{encryption_key: 'env:CACHE_KEY', old_encryption_keys: [x]}", r"old_encryption_keys\[0\].*at least 16"),
    ],
)
def test_a_key_that_is_not_fit_is_refused_with_its_field_and_a_way_out(write, cache, told):
    with pytest.raises(SettingsError, match=told):
        load(write(cache))
