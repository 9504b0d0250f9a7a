"""Nodes that are this machine and nodes that are reached over SSH."""

from __future__ import annotations

import pytest

from orchestrator.core.errors import SettingsError
from orchestrator.settings import NodeSettings, parse
from orchestrator.settings.syntax import ssh_host_and_port

MODELS = "models: {a: {}}\n"


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("10.0.0.7", "10.0.0.7", 22),
        ("gpu-1.example.org:2222", "gpu-1.example.org", 2222),
        ("[fe80::1]", "fe80::1", 22),
        ("[::1]:2022", "::1", 2022),
    ],
)
def test_an_address_is_a_host_with_or_without_a_port(address, host, port):
    assert NodeSettings(name="n", address=address).address == address
    assert ssh_host_and_port(address) == (host, port)


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ("{name: n, address: 'fe80::1'}", "IPv6 address stands in brackets"),
        ("{name: n, address: '-oProxyCommand=x'}", "not a host name"),
        ("{name: n, address: 'a:0'}", "port 0"),
        ("{name: n, address: b, user: '-l root'}", "not a user's name"),
        ("{name: n, address: b, models_dir: models}", "expected an absolute path"),
        ("{name: n, user: ops}", "of no use on this machine"),
        ("{name: n, key: id}", "of no use on this machine"),
        ("{name: n, address: b, simulate: 1x RTX 4090}", "played on this machine alone"),
    ],
)
def test_what_cannot_be_meant_is_refused(node, told):
    with pytest.raises(SettingsError, match=told):
        parse(f"nodes: [{node}]\n{MODELS}", "cluster.yaml")


def test_a_key_is_looked_for_beside_the_file_and_needs_not_be_there(tmp_path):
    settings = parse(f"nodes: [{{name: n, address: b, key: keys/id}}]\n{MODELS}", str(tmp_path / "cluster.yaml"))
    assert settings.nodes[0].key == tmp_path / "keys" / "id"
