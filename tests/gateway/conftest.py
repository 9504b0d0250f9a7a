"""What tests of the gateway share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.store.playing import Server, own_server


@pytest.fixture
def redis() -> Iterator[Server]:
    """A server that a test may kill and start again."""
    with own_server() as server:
        yield server
