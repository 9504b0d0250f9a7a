"""nginx with a rendered configuration, as this user and in a folder of its own; and an instance that a test plays."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from orchestrator.core.nginx import Site, render
from tests.nodes.simulators import free_port
from tests.waiting import WITHIN_S

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "nginx" / "ollama-cluster.conf"
NAME = "ollama.example.com"


def nginx_program() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found is None:
        pytest.skip("nginx is not installed; tests/system_packages.sh has it")
    return found


def site(folder: Path, port: int, servers: Sequence[str], **more: Any) -> Site:
    """A site of this test; what `more` does not name is as usual."""
    own = {"server_name": NAME, "listen": (f"127.0.0.1:{port}",), "access_log": str(folder / "access.log")}
    return Site(tuple(servers), **{**own, **more})


def write_configuration(folder: Path, text: str) -> Path:
    """A whole nginx.conf in `folder` that includes `text`."""
    (folder / "ollama-cluster.conf").write_text(text)
    paths = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = f"user {getpass.getuser()};\n" if os.getuid() == 0 else ""
    main = folder / "nginx.conf"
    main.write_text(
        f"{user}daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log notice;\n"
        f"events {{ worker_connections 512; }}\nhttp {{\n{paths}    include {folder}/ollama-cluster.conf;\n}}\n"
    )
    return main


@dataclass(slots=True)
class Front:
    """nginx, as a caller reaches it."""

    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def access_log(self) -> str:
        return (self.folder / "access.log").read_text()


@contextmanager
def fronted(folder: Path, gateways: Sequence[str], **more: Any) -> Iterator[Front]:
    """nginx before `gateways` (host:port each), ended on the way out."""
    folder.mkdir()
    front = Front(free_port(), folder)
    main = write_configuration(folder, render(site(folder, front.port, gateways, **more)))
    command = [nginx_program(), "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(main)]
    process = subprocess.Popen(command)
    try:
        yield front
    finally:
        process.terminate()
        assert process.wait(WITHIN_S) == 0, (folder / "error.log").read_text()


async def listens(front: Front) -> None:
    """Wait until nginx accepts connections."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", front.port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return


# --- an instance ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Instance:
    """One Ollama whose every frame a test sends itself. `asked` are the bodies it was sent."""

    port: int = 0
    asked: list[bytes] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    frames: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)

    def say(self, text: str, *, is_last: bool = False) -> None:
        frame = {"model": "m", "created_at": "2026-11-21T00:00:00Z", "message": {"role": "assistant", "content": text}}
        last = {"done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2} if is_last else {}
        self.frames.put_nowait(orjson.dumps({**frame, "done": is_last, **last}) + b"\n")

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.read())
        self.came.set()
        if not orjson.loads(self.asked[-1]).get("stream", True):
            return web.Response(body=await self.frames.get(), content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        try:
            frame = b""
            while b'"done":true' not in frame:
                frame = await self.frames.get()
                if not response.prepared:
                    await response.prepare(request)
                await response.write(frame)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        return response


@asynccontextmanager
async def instance() -> AsyncIterator[Instance]:
    played = Instance(port=free_port())
    app = web.Application(client_max_size=2**30)
    app.router.add_post("/api/chat", played.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", played.port).start()
    try:
        yield played
    finally:
        await runner.cleanup()
