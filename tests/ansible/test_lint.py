"""The roles as ansible-lint judges them, by the strictest of its profiles."""

from __future__ import annotations

import pytest

from tests.ansible.playing import Control


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ansible_lint_finds_nothing_in_its_production_profile(tmp_path):
    # The playbook leads to all roles but the one that others include; named one by one each would be parsed anew.
    files = ("site.yml", "hosts.example.yml", "roles/packages")
    done = Control(tmp_path).run("ansible-lint", "--offline", "--profile", "production", "--nocolor", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "production" in done.stderr
