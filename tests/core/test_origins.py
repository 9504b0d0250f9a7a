"""Who may call from where: as a real Ollama lets them (../shared/OLLAMA.md 1.14)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.origins import ALLOWED_HEADERS, is_host_allowed, is_loopback, is_origin_allowed, is_own_origin


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_loopback_address_reaches_this_machine_only(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", ""])
def test_any_other_address_reaches_further(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "localhost", "LOCALHOST:11434", "127.0.0.1:1", "10.1.2.3", "192.168.1.1:80", "[::1]:11434", "[fd00::1]",
     "0.0.0.0:1", "box", "BOX:11434", "box.local", "a.b.internal", "x.localhost:5"],
)  # fmt: skip
def test_a_loopback_endpoint_is_called_by_addresses_its_machines_name_and_local_names(host):
    assert is_host_allowed(host, "box")


@pytest.mark.parametrize(
    "host",
    ["example.com", "example.com:11434", "8.8.8.8", "local", "notlocalhost", "localhost.example.com", "box.example.com",
     "[2001:4860::1]:80", "127.0.0.1.example.com"],
)  # fmt: skip
def test_a_foreign_name_does_not_reach_a_loopback_endpoint(host):
    assert not is_host_allowed(host, "box")


@pytest.mark.parametrize(
    "origin",
    ["http://localhost", "https://localhost:3000", "http://127.0.0.1:5173", "http://[::1]:3000", "http://0.0.0.0",
     "app://obsidian.md", "file://", "tauri://localhost", "vscode-webview://abc", "vscode-file://x"],
)  # fmt: skip
def test_pages_of_this_machine_and_of_desktop_programs_may_call(origin):
    assert is_origin_allowed(origin, "gateway.example.com")


@pytest.mark.parametrize(
    "origin",
    ["https://example.com", "http://localhost.example.com", "http://10.0.0.1", "null", "", "chrome-extension://x",
     "http://", "javascript:alert(1)", "http://127.0.0.1.example.com", "http://[zz]"],
)  # fmt: skip
def test_foreign_pages_may_not(origin):
    assert not is_origin_allowed(origin, "gateway.example.com")


def test_the_endpoints_own_page_may_call_under_whatever_name_it_was_reached():
    assert is_origin_allowed("https://Gateway.example.com:8443", "gateway.example.com:8443")
    assert is_own_origin("http://gw:1", "GW:1")
    assert not is_own_origin("http://gw:2", "gw:1")


ALLOWED = {each.lower() for each in ALLOWED_HEADERS.split(",")}


@pytest.mark.parametrize(
    "sent",
    [  # by @anthropic-ai/sdk 1.12.0, openai 7.55.0 (npm), and by anthropic and openai (PyPI) where a page runs Python
        "x-api-key authorization content-type user-agent anthropic-version anthropic-beta "
        "anthropic-dangerous-direct-browser-access anthropic-organization-id anthropic-workspace-id "
        "anthropic-user-profile-id x-stainless-helper x-stainless-helper-method",
        "openai-beta openai-organization openai-project x-client-request-id idempotency-key x-stainless-poll-helper "
        "x-stainless-custom-poll-interval",
        "x-stainless-lang x-stainless-package-version x-stainless-os x-stainless-arch x-stainless-runtime "
        "x-stainless-runtime-version x-stainless-retry-count x-stainless-timeout x-stainless-async "
        "x-stainless-read-timeout x-stainless-stream-helper",
        "cache-control x-request-id x-priority x-queue-timeout x-queue-updates",
    ],
    ids=["anthropic", "openai", "both", "this endpoint's own"],
)
def test_a_page_that_may_call_may_send_what_its_client_sends(sent):
    assert set(sent.split()) <= ALLOWED


@given(origin=st.text(max_size=60), host=st.text(max_size=60))
def test_no_text_makes_it_fail(origin, host):
    is_origin_allowed(origin, host)
    is_host_allowed(host, "box")
