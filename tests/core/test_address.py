"""A host and a port as one text, which the settings read back as they were."""

from __future__ import annotations

import pytest

from orchestrator.core.address import address_text, bracketed
from orchestrator.settings.syntax import host_and_port


@pytest.mark.parametrize(
    ("host", "text"),
    [("10.0.0.5", "10.0.0.5:80"), ("gpu-1.lan", "gpu-1.lan:80"), ("::1", "[::1]:80"), ("fd00::1", "[fd00::1]:80")],
)
def test_an_address_is_written_as_it_is_read(host, text):
    assert address_text(host, 80) == text
    assert host_and_port(text) == (host, 80)


def test_a_host_alone_has_brackets_only_where_it_needs_them():
    assert [bracketed("::1"), bracketed("10.0.0.5"), bracketed("gpu-1")] == ["[::1]", "10.0.0.5", "gpu-1"]
