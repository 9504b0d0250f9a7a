"""`ollamactl nginx follow`: a real nginx in step with what is published in a real Redis, while calls go through it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from click.testing import CliRunner

from orchestrator.app.following_nginx import Followed, follow
from orchestrator.app.fronting import snapshot_pools
from orchestrator.app.paths import StatePaths
from orchestrator.cli.main import main
from orchestrator.core.model import InstanceState, Pool, Snapshot
from orchestrator.nodes.nginx import Nginx
from orchestrator.settings.file import load
from orchestrator.store import cluster
from orchestrator.store.connection import Connection
from orchestrator.store.embedded import find_server
from tests.gateway.played import pool_of
from tests.nginx.following import WITHIN_S, state
from tests.nginx.playing import NAME, ROOT, Front, fronted, listens, nginx_program, write_configuration
from tests.nodes.simulators import free_port
from tests.store.playing import Server
from tests.waiting import until

MODEL = "llama3.2:3b"


@dataclass(slots=True)
class World:
    """A cluster whose controller a test plays, and nginx before it."""

    folder: Path
    front: Front
    redis: Server
    connection: Connection
    one: int  # the port of the instance that nginx begins with
    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    version: int = 0

    @property
    def paths(self) -> StatePaths:
        return StatePaths(self.folder / "state")

    @property
    def config(self) -> Path:
        return self.folder / "cluster.yaml"

    @property
    def file(self) -> Path:
        return self.front.folder / "ollama-cluster.conf"

    @property
    def reloads(self) -> int:
        return (self.front.folder / "error.log").read_text().count("(SIGHUP) received")

    def followed(self, **more: Any) -> Followed:
        """What is followed here: the instances of MODEL, unless `more` says otherwise."""
        usual = {"is_direct": True, "model": MODEL}
        nginx = Nginx(nginx_program(), self.front.folder / "nginx.conf")
        return Followed(self.config, self.paths, lambda: nginx, self.file, **{**usual, **more})

    def configure(self, *, nginx: dict[str, Any] | None = None, **more: Any) -> None:
        """The operator's file; what is not named is as usual."""
        own = {"server_name": NAME, "listen": [f"127.0.0.1:{self.front.port}"]}
        own["access_log"] = str(self.front.folder / "access.log")
        text = yaml.safe_dump({"models": {MODEL: {}}, **more, "nginx": {**own, **(nginx or {})}})
        fresh = self.config.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.config)

    async def publish(self, *pools: Pool) -> None:
        """As the controller would."""
        self.version += 1
        leadership = await cluster.lead(self.connection, "test", 600)
        assert leadership is not None
        snapshot = Snapshot(self.version, time.time_ns() // 1_000_000, pools)
        assert await cluster.publish(self.connection, leadership, snapshot, grace_s=0)

    async def until_servers(self, *ports: int) -> None:
        """Wait until nginx was reloaded with these, and no others."""
        wanted = [f"    server 127.0.0.1:{each} max_fails" for each in sorted(ports)]

        def holds() -> bool:
            lines = [line.partition("=")[0] for line in self.file.read_text().splitlines() if "max_fails" in line]
            return lines == wanted

        await until(holds, lambda: f"{self.said} {self.warned}")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    nginx_program()
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    redis = Server(find_server(), state)
    async with AsyncExitStack() as stack:
        redis.start()
        stack.callback(redis.kill)
        one = await stack.enter_async_context(answering("one"))
        front = stack.enter_context(fronted(tmp_path / "nginx", [f"127.0.0.1:{one}"], is_direct=True))
        await listens(front)
        connection = Connection(redis.url, name="test")
        await connection.open(20)
        made = World(tmp_path, front, redis, connection, one)
        made.configure()
        try:
            yield made
        finally:
            await connection.close()


@asynccontextmanager
async def following(world: World, **more: Any) -> AsyncIterator[None]:
    """In this process; on the way out it is told to end."""
    stop = asyncio.Event()
    followed = world.followed(**more)
    task = asyncio.create_task(
        follow(followed, load(followed.settings_file), stop, world.said.append, world.warned.append)
    )
    try:
        yield
    finally:
        stop.set()
        await task


def behind_tls(pool: Pool, index: int) -> Pool:
    instances = list(pool.instances)
    instances[index] = replace(instances[index], tls_name="gpu-1")
    return replace(pool, instances=tuple(instances))


@contextmanager
def command(world: World, *more: str, programs: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The command itself, what it says in a file; `programs` in the way of the system's."""
    path = f"{programs}:{os.environ['PATH']}" if programs is not None else os.environ["PATH"]
    words = [sys.executable, "-m", "orchestrator.cli", "nginx", "follow", "--state", str(world.paths.root)]
    words += ["--config", str(world.config), "--file", str(world.file)]
    words += ["--nginx-conf", str(world.front.folder / "nginx.conf"), *more]
    with (world.folder / "said").open("wb") as said:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
        process = subprocess.Popen(words, env=environment, stdout=said, stderr=said, cwd=world.folder)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


# --- instances --------------------------------------------------------------------------------------------------------


async def test_no_call_fails_while_instances_come_and_go(world):
    one = world.one
    async with answering("two") as two, answering("three") as three:
        await world.publish(pool_of(MODEL, [one]))
        with command(world, "--direct", "--model", MODEL) as process:
            async with traffic(world.front) as answers:
                await until(lambda: world.reloads == 1)
                await answers.until_from("one")
                await world.publish(pool_of(MODEL, [one, two]))
                await answers.until_from("two")
                await world.publish(state(pool_of(MODEL, [one, two, three]), 0, InstanceState.DRAINING))
                await world.until_servers(two, three)
                await answers.until_from("three")
                await world.publish(pool_of(MODEL, [three]))
                await world.until_servers(three)
                await answers.until_only("three")
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, WITHIN_S) == 0
        said = (world.folder / "said").read_text()
        assert f"nginx reloaded (127.0.0.1:{three})" in said
        assert "Traceback" not in said
    assert world.reloads == 4


async def test_what_was_published_together_is_one_reload_and_what_changes_nothing_is_none(world):
    one, two, three = (free_port() for _ in range(3))
    with command(world, "--direct") as process:
        await world.publish(pool_of(MODEL, [one]))
        await world.until_servers(one)
        await until(lambda: world.reloads == 1)
        process.send_signal(signal.SIGSTOP)
        for ports in ([one, two], [one, three], [three, two]):
            await world.publish(pool_of(MODEL, ports))
        process.send_signal(signal.SIGCONT)
        await world.until_servers(two, three)
        await world.publish(pool_of(MODEL, [two, three], slots=7, context=8192))
        await world.publish(pool_of(MODEL, [one]))
        await world.until_servers(one)
        await until(lambda: world.reloads == 3)


async def test_a_pool_that_serves_nowhere_keeps_its_last_servers_and_says_so(world):
    one = free_port()
    await world.publish(pool_of(MODEL, [one]))
    async with following(world):
        await world.until_servers(one)
        await world.publish(state(pool_of(MODEL, [one]), 0, InstanceState.DOWN))
        await until(lambda: bool(world.warned))
        assert "no instance serves 'llama3.2:3b' now" in world.warned[0]
        assert world.warned[0].endswith("what was installed last serves on")
        world.configure(nginx={"limits": {"a_minute": 600}})
        await until(lambda: "limit_req" in world.file.read_text())
        await world.until_servers(one)
        await world.publish()
        await until(lambda: len(world.warned) == 2)
        assert "there is no model 'llama3.2:3b'" in world.warned[1]
        await world.until_servers(one)


async def test_instances_behind_tls_are_not_asked_and_why_is_said(world):
    one, two = sorted(free_port() for _ in range(2))
    async with following(world):
        await world.publish(behind_tls(pool_of(MODEL, [one, two]), 1))
        await world.until_servers(one)
        assert world.warned == []
        await world.publish(behind_tls(behind_tls(pool_of(MODEL, [one, two]), 0), 1))
        await until(lambda: bool(world.warned))
        assert "this one wants TLS: have nginx ask the gateways" in world.warned[0]
        await world.until_servers(one)


async def test_servers_behind_https_are_refused_by_every_command_with_the_way_out(world):
    world.configure(models={}, instances=[{"url": "https://127.0.0.1:1", "model": MODEL}])
    why = "https://127.0.0.1:1: nginx asks instances in clear, and this one wants TLS: have nginx ask the gateways"
    async with following(world):
        await until(lambda: bool(world.warned))
        assert why in world.warned[0]
    rendered = CliRunner().invoke(main, ["nginx", "render", "--config", str(world.config), "--direct"])
    assert (rendered.exit_code, why in rendered.output) == (1, True)


async def test_servers_that_run_already_are_in_before_anything_is_published_and_those_down_are_left_out_then(world):
    ports = sorted(free_port() for _ in range(3))
    world.configure(models={}, instances=[{"url": f"http://127.0.0.1:{each}", "model": MODEL} for each in ports])
    async with following(world):
        await world.until_servers(*ports)
        given = replace(pool_of(MODEL, ports), instances=tuple(map(_given, pool_of(MODEL, ports).instances)))
        await world.publish(state(state(given, 0, InstanceState.COLD), 2, InstanceState.DOWN))
        await world.until_servers(*ports[:2])


def test_an_instance_is_asked_only_while_it_takes_calls():
    states = list(InstanceState)
    pool = pool_of(MODEL, range(9000, 9000 + len(states)))
    for index, each in enumerate(states):
        pool = state(pool, index, each)
    serving = f"127.0.0.1:{9000 + states.index(InstanceState.SERVING)}"
    assert snapshot_pools(Snapshot(1, 0, (pool,))) == {MODEL: [serving]}


# --- what is in the way -----------------------------------------------------------------------------------------------


async def test_without_redis_the_servers_stay_it_is_said_once_and_what_changed_meanwhile_is_taken_up(
    world, monkeypatch
):
    monkeypatch.setattr(cluster, "LOOK_AGAIN_S", 0.05)
    one, two = free_port(), free_port()
    await world.publish(pool_of(MODEL, [one]))
    async with following(world):
        await world.until_servers(one)
        world.redis.kill()
        world.configure(nginx={"limits": {"a_minute": 600}})
        await until(lambda: "limit_req" in world.file.read_text())
        await world.until_servers(one)
        await until(lambda: bool(world.warned))
        assert len(world.warned) == 1
        assert "does not answer" in world.warned[0]
        world.redis.start()
        await until(lambda: "Redis answers again" in world.said)
        await world.connection.open(20)
        await world.publish(pool_of(MODEL, [two]))
        await world.until_servers(two)
        assert len(world.warned) == 1


async def test_what_nginx_refuses_is_never_in_force_and_is_tried_again_once_it_could_be_right(world):
    gateways = [f"127.0.0.1:{world.one}"]
    world.configure(nginx={"gateways": gateways})
    async with following(world, is_direct=False):
        await until(lambda: world.reloads == 1)
        before = world.file.read_text()
        async with traffic(world.front) as answers:
            key = {"certificate": "/nowhere/chain.pem", "certificate_key": "/nowhere/key.pem"}
            world.configure(nginx={"gateways": gateways, **key})
            await until(lambda: any("nginx refuses" in each for each in world.warned))
            assert world.file.read_text() == before
            world.config.write_text("modells: {}\n")
            await until(lambda: any("settings before stay in force" in each for each in world.warned))
            await answers.until_from("one", more=5)
        assert world.reloads == 1
        world.configure(nginx={"gateways": gateways, "limits": {"a_minute": 600}})
        await until(lambda: "limit_req" in world.file.read_text())
    assert len(world.warned) == 2, world.warned


async def test_a_gateway_that_is_added_to_the_settings_is_asked(world):
    one = world.one
    async with answering("two") as two:
        world.configure(nginx={"gateways": [f"127.0.0.1:{one}"]})
        async with following(world, is_direct=False), traffic(world.front) as answers:
            await answers.until_from("one")
            world.configure(nginx={"gateways": [f"127.0.0.1:{each}" for each in (one, two)]})
            await answers.until_from("two")


async def test_what_was_written_by_one_that_was_killed_before_the_reload_is_loaded_by_the_next(world):
    programs = world.folder / "programs"
    programs.mkdir()
    asked = programs / "asked"
    (programs / "nginx").write_text(
        f'#!/bin/sh\ncase "$*" in *"-s reload") echo $$ >{asked}; exec sleep 1000;; esac\nexec {nginx_program()} "$@"\n'
    )
    (programs / "nginx").chmod(0o755)
    two = free_port()
    await world.publish(pool_of(MODEL, [two]))
    try:
        with command(world, "--direct", programs=programs) as killed:
            await until(lambda: asked.exists() and asked.read_text().endswith("\n"))
            killed.kill()
            killed.wait()
    finally:
        os.kill(int(asked.read_text()), signal.SIGKILL)
    await world.until_servers(two)
    assert world.reloads == 0, "written, and not read"
    with command(world, "--direct"):
        await until(lambda: world.reloads == 1, lambda: (world.folder / "said").read_text())
    with command(world, "--direct"):
        await world.publish(pool_of(MODEL, [two, world.one]))
        await world.until_servers(two, world.one)
        await until(lambda: world.reloads > 1)
    assert world.reloads == 2, "what nginx has read is read once"


async def test_a_stopped_nginx_reads_what_changed_when_it_starts(tmp_path, world):
    away = replace(world, front=Front(free_port(), tmp_path / "away"))
    away.front.folder.mkdir()
    main = write_configuration(away.front.folder, "# Written by `ollamactl nginx`\n")
    away.configure()
    await away.publish(pool_of(MODEL, [world.one]))
    async with following(away):
        await away.until_servers(world.one)
        await until(lambda: any("nginx does not run" in each for each in away.said))
        with _started(away.front.folder, main):
            await listens(away.front)
            async with traffic(away.front) as answers:
                await answers.until_from("one")
    assert away.warned == []


async def test_a_file_of_somebody_elses_is_left_alone(world):
    world.file.write_text("# by hand\n")
    await world.publish(pool_of(MODEL, [free_port()]))
    async with following(world):
        await until(lambda: any("--force" in each for each in world.warned))
    assert world.file.read_text() == "# by hand\n"


def test_a_state_folder_without_a_cluster_is_named(tmp_path):
    words = [sys.executable, "-m", "orchestrator.cli", "nginx", "follow", "--state", str(tmp_path / "none")]
    told = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stdout) == (1, "")
    assert "no cluster ran with --state" in told.stderr


# --- helpers ----------------------------------------------------------------------------------------------------------


def _given(instance: Any) -> Any:
    return replace(instance, is_given=True)


@asynccontextmanager
async def answering(name: str) -> AsyncIterator[int]:
    """An instance that answers at once, by its name; yields its port."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"from": name, "done": True})

    app = web.Application()
    app.router.add_post("/api/chat", answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


@dataclass(slots=True)
class Answers:
    """Who answered, in order; a call that failed is raised where one waits for others."""

    names: list[str] = field(default_factory=list)
    callers: list[asyncio.Task[None]] = field(default_factory=list)

    async def until_from(self, name: str, more: int = 1) -> None:
        wanted = self.names.count(name) + more
        await self._until(lambda: self.names.count(name) >= wanted)

    async def until_only(self, name: str) -> None:
        await self._until(lambda: len(self.names) >= 10 and set(self.names[-10:]) == {name})

    async def _until(self, holds: Callable[[], bool]) -> None:
        await until(lambda: holds() or any(each.done() for each in self.callers), lambda: f"{self.names[-10:]}")
        self.check()

    def check(self) -> None:
        for each in self.callers:
            if each.done():
                each.result()


@asynccontextmanager
async def traffic(front: Front, callers: int = 4) -> AsyncIterator[Answers]:
    """Calls without a pause until the end; one that fails, fails the test."""
    answers = Answers()

    async def ask(http: aiohttp.ClientSession) -> str:
        async with http.post(f"{front.url}/api/chat", data=b'{"model": "m"}') as reply:
            assert reply.status == 200, await reply.text()
            return str((await reply.json())["from"])

    async def call(http: aiohttp.ClientSession) -> None:
        while True:
            try:
                name = await ask(http)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # A reload closes connections on which no request was read yet; such a call goes out anew, once.
                name = await ask(http)
            answers.names.append(name)

    async with aiohttp.ClientSession(headers={"Host": NAME, "Connection": "close"}) as http:
        answers.callers += [asyncio.create_task(call(http)) for _ in range(callers)]
        try:
            yield answers
            answers.check()
        finally:
            for each in answers.callers:
                each.cancel()
            await asyncio.gather(*answers.callers, return_exceptions=True)


@contextmanager
def _started(folder: Path, main: Path) -> Iterator[None]:
    words: Sequence[str] = [nginx_program(), "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(main)]
    process = subprocess.Popen(words)
    try:
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(WITHIN_S)
        assert process.poll() == 0
