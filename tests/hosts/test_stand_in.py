"""The `ollama` of the played hosts: run as a service's user, it pulls into its folder and lists what lies there."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from orchestrator.core.errors import InstanceError
from orchestrator.core.model import Engine, Instance, InstanceId, NodeName, PoolName
from orchestrator.fleet.inventory import look_at
from orchestrator.nodes.engine_api import EngineApi
from tests.hosts.machines import STAND_IN, Machine
from tests.hosts.reaching import MODELS, known, node, reach
from tests.waiting import WITHIN_S

PROGRAM = "/opt/ollama"  # hosts find servers by that name
PORT = 11500
MODEL = "llama3.1:8b"
USER = "guest"
# As strict as a service of it may be.
HIDDEN = ("ProtectHome=tmpfs", "ProtectSystem=strict", "PrivateTmp=yes", "NoNewPrivileges=yes", "ProtectProc=invisible")


@dataclass(frozen=True)
class Serving:
    """An `ollama serve` of a host, with what tests ask of it."""

    machine: Machine
    api: EngineApi
    http: aiohttp.ClientSession

    def instance(self, model: str = MODEL) -> Instance:
        return Instance(
            InstanceId("one"),
            NodeName("gpu"),
            PoolName(model),
            self.machine.address,
            PORT,
            Engine.OLLAMA,
            model,
            3,
            2048,
        )

    async def tags(self) -> list[str]:
        return [each["model"] for each in (await self._asked("GET", "/api/tags"))["models"]]

    async def answer(self, model: str) -> str:
        body = {"model": model, "prompt": "hi", "stream": False}
        return str((await self._asked("POST", "/api/generate", json=body))["response"])

    async def _asked(self, method: str, path: str, **more: Any) -> Any:
        async with self.http.request(method, f"http://{self.machine.address}:{PORT}{path}", **more) as reply:
            return await reply.json()


@asynccontextmanager
async def serving(machine: Machine, models_dir: str = MODELS, kills: str = "mixed") -> AsyncIterator[Serving]:
    """It answers when the block begins, and is gone with its models' folder after it."""
    program = machine.files / PROGRAM[1:]
    program.write_bytes(STAND_IN.read_bytes())
    program.chmod(0o755)
    machine.run("install", "-d", "-o", USER, models_dir)
    environment = (
        f"OLLAMA_HOST={machine.address}:{PORT}", f"OLLAMA_MODELS={models_dir}", "HOME=/nonexistent",
        "OLLAMA_NUM_PARALLEL=3", "OLLAMA_CONTEXT_LENGTH=2048", "OLLAMA_KEEP_ALIVE=-1",
        "CUDA_VISIBLE_DEVICES=GPU-4090-a",
    )  # fmt: skip
    properties = (*HIDDEN, f"BindPaths={models_dir}", "TimeoutStopSec=1", f"KillMode={kills}")
    settings = [*(f"--setenv={each}" for each in environment), *(f"--property={each}" for each in properties)]
    machine.run("systemd-run", "--unit=ollama-test", f"--uid={USER}", *settings, PROGRAM, "serve")
    api = EngineApi()
    try:
        async with aiohttp.ClientSession() as http:
            served = Serving(machine, api, http)
            await _up(served)
            yield served
    finally:
        await api.close()
        machine.run("systemctl", "stop", "ollama-test", check=False)
        machine.run("systemctl", "reset-failed", "ollama-test", check=False)
        machine.run("rm", "-rf", models_dir, PROGRAM)


async def _up(served: Serving) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await served.api.version(served.instance())
                return
            except InstanceError as why:
                if not why.is_unreachable:
                    raise
            await asyncio.sleep(0.05)  # until it listens: it has no other way of saying so


async def test_it_pulls_real_files_and_serves_what_it_pulled(gpu_1, hosts, tmp_path):
    async with serving(gpu_1) as served:
        one, told = served.instance(), list[tuple[str, int, int]]()
        assert not await served.api.has_model(one)
        await served.api.pull(one, lambda *each: told.append(each))
        assert told[-1][0] == "success"
        assert await served.tags() == [MODEL]
        await served.api.load(one, is_embedding=False)
        assert await served.api.is_loaded(one)
        assert (await served.api.describe(one))["ps"]["context_length"] == 2048
        assert (await served.answer(MODEL)).startswith("[simulated RTX 4090]")
        facts = await look_at(node(hosts, gpu_1), tmp_path, reach(known(tmp_path, gpu_1)))
    (seen,) = facts.models
    (server,) = facts.ollamas
    assert seen.name == MODEL
    assert (server.port, server.user, server.models_dir, server.unit) == (PORT, "guest", MODELS, "ollama-test.service")


async def test_its_blobs_are_those_that_their_names_and_the_manifest_say(gpu_1):
    async with serving(gpu_1) as served:
        await served.api.pull(served.instance(), lambda *each: None)
        manifest = json.loads(gpu_1.run("cat", f"{MODELS}/manifests/registry.ollama.ai/library/llama3.1/8b"))
        layers = [*manifest["layers"], manifest["config"]]
        for each in layers:
            path = gpu_1.files / MODELS[1:] / "blobs" / each["digest"].replace(":", "-")
            assert path.stat().st_size == each["size"]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == each["digest"][7:]
        weights = path.parent / layers[0]["digest"].replace(":", "-")
        assert weights.read_bytes().startswith(b"simulated weights of llama3.1:8b")


async def test_it_plays_what_a_test_wants_to_go_wrong(gpu_1):
    gpu_1.stand_in(pull_error="no such host", load_error="exit status 1")
    async with serving(gpu_1) as served:
        with pytest.raises(InstanceError, match="no such host"):
            await served.api.pull(served.instance(), lambda *each: None)
        gpu_1.stand_in()
        await served.api.pull(served.instance(), lambda *each: None)
        with pytest.raises(InstanceError, match="exit status 1"):
            await served.api.load(served.instance(), is_embedding=False)


async def test_it_can_ignore_sigterm_and_leave_a_runner_behind(gpu_1):
    gpu_1.stand_in(ignores_sigterm=True, has_runner=True)
    async with serving(gpu_1, kills="process") as served:
        server, runner = gpu_1.run("pgrep", "-u", USER, "-f", "ollama").split()
        gpu_1.run("kill", "-TERM", server)
        assert await served.tags() == []
        gpu_1.run("kill", "-KILL", server)
        gpu_1.run("timeout", "60", "sh", "-c", f"while [ -e /proc/{server} ]; do sleep 0.05; done")
        gpu_1.run("kill", "-KILL", runner)


async def test_it_tells_its_version(gpu_1):
    program = gpu_1.files / PROGRAM[1:]
    program.write_bytes(STAND_IN.read_bytes())
    program.chmod(0o755)
    assert gpu_1.run(PROGRAM, "--version") == "ollama version is 0.33.0-rc2\n"
    program.unlink()
