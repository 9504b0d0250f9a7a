"""`ollamactl doctor` before real parts that are not as they should be: Redis, played servers, a process, a file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner, Result

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.cli.main import main
from orchestrator.core.model import Engine, Instance, InstanceId, NodeName, PoolName
from orchestrator.nodes.checkup import CheckupApi
from orchestrator.nodes.simulator.config import SimulatorConfig
from orchestrator.nodes.state_lock import StateLock
from orchestrator.settings import parse
from orchestrator.store.embedded import find_server
from tests.fleet.given_world import model
from tests.nodes.simulators import running
from tests.store.playing import free_port, playing

# An `ollama serve` as far as the process list shows: by its name, its arguments, its environment and its socket.
SLEEPER = """\
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as listening:
    print(listening.getsockname()[1], flush=True)
    sys.stdin.read()
"""


def doctor(tmp_path: Path, *args: str, settings: dict[str, Any] | None = None) -> Result:
    """The command as it would run, beside no cluster."""
    more: list[str] = []
    if settings is not None:
        (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(settings))
        more = ["--config", str(tmp_path / "cluster.yaml")]
    return CliRunner().invoke(main, ["doctor", "--state", str(tmp_path / "state"), *more, *args])


def found(result: Result, check: str) -> list[dict[str, str]]:
    return [each for each in json.loads(result.stdout) if each["check"] == check]


def redis_at(port: int) -> dict[str, Any]:
    return {"redis": f"redis://127.0.0.1:{port}", "models": {"small:1b": {}}}


@contextmanager
def played(tmp_path: Path, **changes: Any) -> Iterator[str]:
    """URL of a server that somebody else runs."""
    port = free_port()
    told = {"card": "RTX 4090", "speed": 100.0, **changes}
    config = SimulatorConfig(f"played-{port}", "127.0.0.1", port, (model("small:1b"),), **told)
    with running(config, tmp_path):
        yield f"http://127.0.0.1:{port}"


def load(url: str) -> None:
    body = {"model": "small:1b", "stream": False}
    assert httpx.post(f"{url}/api/generate", json=body, timeout=30).status_code == 200


@contextmanager
def ollama_process(tmp_path: Path, **environment: str) -> Iterator[tuple[int, int]]:
    """Pid and port of something that is called `ollama serve`."""
    (tmp_path / "ollama").write_text(SLEEPER)
    command = [sys.executable, str(tmp_path / "ollama"), "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.communicate()


def test_with_nothing_running_the_host_is_looked_at_and_the_rest_named(tmp_path):
    result = doctor(tmp_path, "--all")
    assert "Traceback" not in result.output
    assert "not looked at" in result.stdout
    assert "no cluster runs with this --state" in result.stdout
    assert "file limits" in result.stdout
    assert not (tmp_path / "state").exists(), "it changes nothing"


def test_what_is_well_is_shown_only_when_asked_for(tmp_path):
    assert "none: what `ollamactl up` would do" not in doctor(tmp_path).stdout
    assert "none: what `ollamactl up` would do" in doctor(tmp_path, "--all").stdout


def test_a_file_with_a_mistake_is_a_finding_and_the_host_is_looked_at_all_the_same(tmp_path):
    result = doctor(tmp_path, "--json", settings={"models": 5})
    assert result.exit_code == 2
    [finding] = found(result, "settings")
    assert finding["severity"] == "error"
    assert "config check" in finding["mends"]
    assert found(result, "file limits")


def test_a_redis_that_evicts_is_an_error_and_named_with_the_command_that_mends_it(tmp_path):
    port = free_port()
    options = ["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru", "--save", "", "--appendonly", "no"]
    with playing(find_server(), tmp_path, port, options):
        result = doctor(tmp_path, "--json", settings=redis_at(port))
    assert result.exit_code == 2
    told = {each["what"]: each for each in found(result, "redis")}
    assert any("evicts keys when it is full" in each for each in told)
    assert any("no append-only file" in each for each in told)
    mends = " ".join(each["mends"] for each in told.values())
    assert f"redis-cli -h 127.0.0.1 -p {port} CONFIG SET maxmemory-policy noeviction" in mends
    assert [each["severity"] for each in found(result, "clocks")] == ["ok"]


def test_a_redis_that_keeps_everything_is_well(tmp_path):
    port = free_port()
    options = ["--maxmemory", "64mb", "--maxmemory-policy", "noeviction", "--appendonly", "yes"]
    with playing(find_server(), tmp_path, port, options):
        result = doctor(tmp_path, "--json", settings=redis_at(port))
    assert [each["severity"] for each in found(result, "redis")] == ["ok"]


def test_what_a_cluster_that_hangs_leaves_unanswered_are_errors(tmp_path):
    """Its supervisor lives, its gateways and its Redis do not."""
    gone = f"127.0.0.1:{free_port()}"
    with StateLock(tmp_path / "state") as lock:
        lock.tell(gone)
        settings = parse(f"redis: redis://127.0.0.1:{free_port()}\nmodels: {{'small:1b': {{}}}}\n", "cluster.yaml")
        settings_in_use.write(StatePaths(tmp_path / "state"), settings)
        result = doctor(tmp_path, "--json")
    assert result.exit_code == 2
    [endpoint] = found(result, "pools")
    assert (endpoint["severity"], f"{gone} does not answer" in endpoint["what"]) == ("error", True)
    [redis] = found(result, "redis")
    assert (redis["severity"], "does not answer" in redis["what"]) == ("error", True)
    assert [each["severity"] for each in found(result, "servers")] == ["not looked at"]
    assert [each["severity"] for each in found(result, "cache")] == ["ok"], "the settings tell that"


def test_given_servers_are_asked_without_a_cluster(tmp_path):
    with played(tmp_path, card="") as one, played(tmp_path, version="0.6.0") as old:
        load(one)
        servers = [{"url": one, "name": "one"}, {"url": old, "name": "old", "model": "small:1b"}]
        gone = {"url": f"http://127.0.0.1:{free_port()}", "name": "gone"}
        result = doctor(tmp_path, "--json", settings={"instances": [*servers, gone]})
    assert result.exit_code == 2
    assert {each["where"]: each["severity"] for each in found(result, "servers")} == {
        "one": "ok",
        "old": "ok",
        "gone": "error",
    }
    assert [each["where"] for each in found(result, "version") if each["severity"] == "error"] == ["old"]
    assert {each["where"]: each["severity"] for each in found(result, "residency")} == {"one": "ok", "old": "note"}
    [placed] = found(result, "cpu fallback")
    assert placed["what"].startswith("small:1b is ")
    assert "CPU" in placed["what"]


async def test_a_servers_clock_is_read_off_its_answers(tmp_path):
    with played(tmp_path) as url:
        port = int(url.rpartition(":")[2])
        at = Instance(InstanceId("x"), NodeName("x"), PoolName(""), "127.0.0.1", port, Engine.OLLAMA, "", 1, 0)
        api = CheckupApi()
        try:
            clock = await api.clock(at)
        finally:
            await api.close()
    assert clock is not None
    assert abs(clock.ahead_s) <= clock.within_s + 0.1, "it is this machine's own"


def test_what_is_loaded_is_told_with_its_memory_and_its_end(tmp_path):
    """As a server elsewhere tells it: five minutes from now it is gone."""
    with played(tmp_path) as url:
        load(url)
        result = doctor(tmp_path, "--json", settings={"instances": [{"url": url, "context": 8192}]})
    assert any("5 min from now" in each["what"] for each in found(result, "ollama settings"))
    [finding] = found(result, "context")
    assert finding["severity"] == "warning"
    assert finding["what"] == "small:1b is loaded with 4096 tokens, and 8192 are promised"


def test_an_ollama_of_this_machine_is_judged_by_its_environment_and_its_sockets(tmp_path):
    with ollama_process(tmp_path, OLLAMA_FLASH_ATTENTION="0", OLLAMA_KEEP_ALIVE="0", SECRET="x") as (pid, _):
        result = doctor(tmp_path, "--json")
    mine = [each for each in found(result, "ollama settings") if each["where"] == f"ollama serve, pid {pid}"]
    assert {each["what"].partition(":")[0] for each in mine} >= {
        "OLLAMA_FLASH_ATTENTION is off",
        "OLLAMA_KEEP_ALIVE=0",
    }
    assert all("start it with OLLAMA_" in each["mends"] for each in mine if each["severity"] == "warning")
    assert not any(str(pid) in each["where"] for each in found(result, "open ports")), "it listens on loopback"


@pytest.mark.parametrize(("cache", "code"), [({"enabled": False}, 1), ({"enabled": True}, 0)])
def test_the_exit_code_says_whether_there_are_warnings(tmp_path, cache, code):
    with played(tmp_path, keep_alive_s=-1.0) as one:
        settings = {"instances": [{"url": one, "slots": 2}], "cache": cache, "limits": {"queue_length": 1}}
        result = doctor(tmp_path, "--json", settings=settings)
    worse = [each for each in json.loads(result.stdout) if each["severity"] in ("warning", "error")]
    of_file = [each for each in worse if each["check"] == "cache"]
    assert len(of_file) == code
    assert (result.exit_code == 0) == (not worse)
