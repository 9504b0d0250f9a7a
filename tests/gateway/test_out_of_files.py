"""A worker that may open no more files: nobody else is blamed for it, and it may open as many as the system lets it."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator.app.loop import open_files_at_most
from orchestrator.core.errors import CapacityError
from orchestrator.gateway.upstream import Connections


@contextmanager
def files_at_most(number: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_an_instance_is_not_blamed_for_files_that_the_gateway_lacks(port: int) -> None:
    connections = Connections()
    (await connections.connect("gpu-1", "127.0.0.1", port)).close()
    taken = os.open("/dev/null", os.O_RDONLY)  # the lowest number that is free: those below are taken
    os.close(taken)
    with files_at_most(taken), pytest.raises(CapacityError, match="can open no more connections") as told:
        await connections.connect("gpu-1", "127.0.0.1", port)
    assert told.value.status == 503
    assert told.value.retry_after_s == 1


def test_a_process_may_open_as_many_files_as_the_system_lets_it() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with files_at_most(256):
        open_files_at_most()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
