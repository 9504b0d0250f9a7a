"""`ollamactl ask` where an API key is needed and none was named."""

from __future__ import annotations

import pytest
from aiohttp import web

from orchestrator.app.questions import ask
from orchestrator.core.errors import HostError


@pytest.mark.parametrize(
    ("status", "ends"), [(401, "an API key is needed; name one in OLLAMACTL_KEY"), (403, "needed")]
)
async def test_who_is_asked_for_a_key_is_told_where_the_command_takes_it_from(status: int, ends: str) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": "an API key is needed"}, status=status)

    app = web.Application()
    app.router.add_post("/api/chat", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        with pytest.raises(HostError, match=f"{ends}$"):
            await ask(f"127.0.0.1:{runner.addresses[0][1]}", "hello")
    finally:
        await runner.cleanup()
