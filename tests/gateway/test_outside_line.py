"""Connections to providers: always verified, kept a while and no longer, never through what the environment names."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.errors import InstanceError
from orchestrator.core.target import Provider
from orchestrator.gateway import outside_line
from orchestrator.gateway.outside_line import OutsideConnections, OutsideExchange, fields_of
from orchestrator.gateway.upstream import Stage
from tests.gateway.far_side import KEY, FarSide, far_side


def provider_at(far: FarSide, folder: Path, *, host: str = "localhost", is_tls: bool = True) -> Provider:
    authority = folder / "ca.pem"
    far.ca.cert_pem.write_to_path(str(authority))
    return Provider("far", host, far.port, is_tls, "/v1", KEY, str(authority))


async def listed(connections: OutsideConnections, provider: Provider) -> OutsideExchange:
    """One whole exchange, its connection given back."""
    exchange = connections.idle(provider.host, provider.port)
    if exchange is None:
        exchange = await connections.connect("far", provider.host, provider.port)
    assert isinstance(exchange, OutsideExchange)
    exchange.send(f"GET /v1/models HTTP/1.1\r\n{fields_of(provider)}\r\n".encode(), b"", 10)
    await exchange.until(Stage.DONE)
    connections.give_back(provider.host, provider.port, exchange)
    return exchange


async def test_a_connection_is_used_again_and_not_once_it_was_idle_for_long(tmp_path, monkeypatch):
    async with far_side() as far:
        provider = provider_at(far, tmp_path)
        connections = OutsideConnections(provider)
        first = await listed(connections, provider)
        assert await listed(connections, provider) is first
        monkeypatch.setattr(outside_line, "IDLE_S", -1.0)
        assert await listed(connections, provider) is not first
        assert far.connections == 2
        connections.close()


async def test_the_headers_of_the_last_answer_are_there_and_no_older_ones(tmp_path):
    async with far_side(says={"x-ratelimit-remaining-requests": "3"}) as far:
        provider = provider_at(far, tmp_path)
        connections = OutsideConnections(provider)
        assert (await listed(connections, provider)).headers["x-ratelimit-remaining-requests"] == "3"
        far.says = {"X-Long": "x" * 5000}
        headers = (await listed(connections, provider)).headers
        assert "x-ratelimit-remaining-requests" not in headers
        assert "x-long" not in headers
        connections.close()


async def test_http_1_is_spoken_though_the_provider_prefers_2(tmp_path):
    async with far_side() as far:
        provider = provider_at(far, tmp_path)
        connections = OutsideConnections(provider)
        exchange = await connections.connect("far", "localhost", far.port)
        assert exchange.transport is not None
        assert exchange.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        exchange.close()


async def test_who_cannot_prove_its_name_is_not_spoken_to(tmp_path):
    async with far_side(name="elsewhere.example") as far:
        provider = provider_at(far, tmp_path)
        with pytest.raises(InstanceError, match=r"the certificate of localhost:.* is not to be trusted") as why:
            await OutsideConnections(provider).connect("far", "localhost", far.port)
        assert why.value.is_unreachable
    async with far_side() as far:
        unknown = Provider("far", "localhost", far.port, True, "/v1")
        with pytest.raises(InstanceError, match="is not to be trusted"):
            await OutsideConnections(unknown).connect("far", "localhost", far.port)


async def test_who_speaks_no_tls_where_tls_is_wanted_is_not_spoken_to(tmp_path, monkeypatch):
    monkeypatch.setattr(outside_line, "CONNECT_TIMEOUT_S", 0.5)
    async with far_side(is_tls=False) as far:
        provider = provider_at(far, tmp_path)
        with pytest.raises(InstanceError, match="no connection to localhost"):
            await OutsideConnections(provider).connect("far", "localhost", far.port)


async def test_a_proxy_of_the_environment_is_not_used(tmp_path, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with far_side() as far:
        provider = provider_at(far, tmp_path)
        connections = OutsideConnections(provider)
        assert (await listed(connections, provider)).head.status == 200
        connections.close()


def test_certificates_that_cannot_be_read_are_said(tmp_path):
    wrong = tmp_path / "ca.pem"
    wrong.write_text("no certificate")
    with pytest.raises(InstanceError, match=r"certificates in .*ca\.pem cannot be read"):
        OutsideConnections(Provider("far", "x", 443, True, "/v1", ca=str(wrong)))


def test_a_request_names_its_host_as_the_far_side_knows_itself():
    assert "Host: x\r\n" in fields_of(Provider("far", "x", 443, True, "/v1"))
    assert "Host: x:8443\r\n" in fields_of(Provider("far", "x", 8443, True, "/v1"))
    assert "Host: [::1]:8080\r\n" in fields_of(Provider("far", "::1", 8080, False, "/v1"))
    assert "Authorization" not in fields_of(Provider("far", "x", 443, True, "/v1"))
    assert "X-Title: a b\r\n" in fields_of(Provider("far", "x", 443, True, "/v1", headers={"X-Title": "a b"}))
