"""The key of the answer cache's digests, which the controller and each gateway make or find as they start together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.app.paths import StatePaths
from orchestrator.app.settings_in_use import cache_secret
from orchestrator.core.errors import HostError


def test_all_who_start_together_have_the_same_whole_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        told = set(pool.map(lambda _: cache_secret(StatePaths(tmp_path)), range(64)))
    assert [len(each) for each in told] == [32]
    assert (tmp_path / "cache.key").stat().st_mode & 0o777 == 0o600


def test_a_key_cut_short_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "cache.key").write_bytes(b"")
    with pytest.raises(HostError, match=r"cache\.key is damaged: 0 bytes instead of 32; remove it, and start again"):
        cache_secret(StatePaths(tmp_path))
