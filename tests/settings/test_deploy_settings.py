"""What `ollamactl deploy` brings to hosts, as the settings say it."""

from __future__ import annotations

import pytest

from orchestrator.core.errors import SettingsError
from orchestrator.settings import parse

REST = "nodes: [{name: n, address: b}]\nmodels: {a: {}}\n"
DIGEST = "0" * 64


@pytest.mark.parametrize(
    ("deploy", "field", "told"),
    [
        ("{ollama: 'https://example.com/ollama.tgz'}", "deploy.ollama", "name its digest as `sha256`"),
        (f"{{ollama: 'http://example.com/o.tgz', sha256: '{DIGEST}'}}", "deploy.ollama", "over https alone"),
        (f"{{sha256: '{DIGEST}'}}", "deploy.sha256", "is the digest of `ollama`"),
        ("{ollama: o, sha256: abc}", "deploy.sha256", "."),
        ("{ports: [11599, 11500]}", "deploy.ports", "first and the last of some between 1024 and 65535"),
        ("{ports: [80, 90]}", "deploy.ports", "between 1024 and 65535"),
        ("{ports: [65530, 65540]}", "deploy.ports", "between 1024 and 65535"),
        ("{user: root}", "deploy.user", "does not run as root"),
        ("{user: 'a b'}", "deploy.user", "."),
    ],
)
def test_what_cannot_be_deployed_is_refused_with_its_field(deploy, field, told):
    with pytest.raises(SettingsError, match=told) as refused:
        parse(f"deploy: {deploy}\n{REST}", "cluster.yaml")
    assert field in str(refused.value)


def test_a_wrong_field_is_told_of_once():
    with pytest.raises(SettingsError) as refused:
        parse(f"deploy: {{sha256: abc, ollama: 'https://example.com/o'}}\n{REST}", "cluster.yaml")
    assert str(refused.value).count("deploy.") == 1


def test_a_program_is_looked_for_beside_the_file_and_needs_not_be_there(tmp_path):
    where = str(tmp_path / "cluster.yaml")
    assert parse(f"deploy: {{ollama: bin/ollama}}\n{REST}", where).deploy.ollama == str(tmp_path / "bin" / "ollama")
    url = "https://example.com/ollama.tar.zst"
    assert parse(f"deploy: {{ollama: '{url}', sha256: '{DIGEST}'}}\n{REST}", where).deploy.ollama == url
