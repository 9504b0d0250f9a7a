"""One cluster, one gateway and one process a foreign client for all tests of clients; gone before other tests begin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.clients.installed import HERE, node_with_clients, python_apart
from tests.clients.players import Player, player
from tests.clients.worlds import a_cluster, a_tool_caller
from tests.cluster.running import Up, needs_redis


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    needs_redis()
    with a_cluster(tmp_path_factory.mktemp("clients")) as up:
        yield up


@pytest.fixture(scope="package")
def tool_caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an endpoint whose model calls tools."""
    needs_redis()
    with a_tool_caller(tmp_path_factory.mktemp("tools")) as url:
        yield url


def _apart(script: str, folder: Path) -> AbstractContextManager[Player]:
    """A player of `apart/`. Neither library shall ask the network for anything but the endpoint."""
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOG": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }
    return player([python_apart(), HERE / "apart" / script], folder / f"{script}.log", env)


@pytest.fixture(scope="package")
def litellm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Player]:
    with _apart("litellm_player.py", tmp_path_factory.mktemp("litellm")) as client:
        yield client


@pytest.fixture(scope="package")
def llama_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Player]:
    with _apart("llama_index_player.py", tmp_path_factory.mktemp("llama_index")) as client:
        yield client


@pytest.fixture(scope="package")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Player]:
    program, scenes = node_with_clients()
    with player([program, scenes / "player.mjs"], tmp_path_factory.mktemp("node") / "log") as client:
        yield client
