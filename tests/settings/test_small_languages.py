"""Small languages of settings: addresses, Redis' URLs, played cards."""

from __future__ import annotations

import pytest

from orchestrator.settings import parse
from orchestrator.settings.syntax import host_and_port
from tests.settings.refusing import only_refusal


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("127.0.0.1:11434", ("127.0.0.1", 11434)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("localhost:80", ("localhost", 80)),
        ("[::]:11434", ("::", 11434)),
        ("[FE80::1]:1", ("fe80::1", 1)),
        ("gpu-1.example.com:65535", ("gpu-1.example.com", 65535)),
    ],
)
def test_an_address_is_a_host_and_a_port(text, meant):
    assert host_and_port(text) == meant
    assert parse(f"models: {{a: }}\nlisten: '{text}'", "c").listen == text


@pytest.mark.parametrize(
    "text",
    ["", ":", "11434", ":11434", "localhost", "localhost:", "h:65536", "h:-1", "h:x", "h:٣", "h:999999999999999999999",
     "::1:11434", "[::1]", "[::g]:1", "[127.0.0.1]:1",
     "256.0.0.1:1", "1.2.3:1", "a b:1", "-a:1", "http://h:1", "h:1/x"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    assert ":2:9: listen: " in only_refusal(f"models: {{a: }}\nlisten: '{text}'")


@pytest.mark.parametrize(
    "url",
    ["embedded", "redis://host", "redis://host:6379/0", "redis://user:pass@host:6379", "rediss://host",
     "redis://[::1]:6379", "redis://[::1]", "unix:///run/redis.sock", "unix://user:pass@/run/redis.sock?db=1",
     "sentinel://one:26379,two:26379/main", "sentinel://:pass@one,two/main"],
)  # fmt: skip
def test_a_redis_url_that_can_be_right_is_taken(url):
    assert parse(f"models: {{a: }}\nredis: '{url}'", "c").redis == url


@pytest.mark.parametrize(
    "url",
    ["", "host:6379", "http://host", "redis://", "redis:///0", "redis://:6379", "redis://host:x", "redis://host:99999",
     "unix://", "unix:///", "sentinel://one,,two/main", "redis://[::1"],
)  # fmt: skip
def test_a_redis_url_that_cannot_be_right_is_refused(url):
    assert ":2:8: redis: " in only_refusal(f"models: {{a: }}\nredis: '{url}'")


@pytest.mark.parametrize("cards", ["3x RTX 4090, 1x A100-40GB", "L4", "2 x rtx4090"])
def test_simulated_cards_are_counts_and_names(cards):
    assert parse(f"models: {{a: }}\nnodes: [{{name: n, simulate: '{cards}'}}]", "c").nodes[0].simulate == cards


@pytest.mark.parametrize("cards", ["", "3x ", "3x L4,", "0x L4", "99999x L4", "3x RTX 9999", "x"])
def test_cards_that_nobody_knows_are_refused_in_their_place(cards):
    line = only_refusal(f"models: {{a: }}\nnodes: [{{name: n, simulate: '{cards}'}}]")
    assert line.startswith("cluster.yaml:2:29: nodes[0].simulate: ")
