"""A plain proxy as one writes it in an afternoon: aiohttp's server, aiohttp's client, least connections. No features.

Run by `python -m benchmarks.gateway.plain PORT INSTANCE_PORT…`.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

_OF_ONE_HOP = {"host", "connection", "transfer-encoding", "content-length", "keep-alive"}


class Plain:
    def __init__(self, instances: list[str]) -> None:
        self._busy = dict.fromkeys(instances, 0)

    async def run(self, port: int) -> None:
        connector, no_limit = TCPConnector(limit=0), ClientTimeout(None)
        async with ClientSession(connector=connector, timeout=no_limit, auto_decompress=False) as http:
            self._http = http
            runner = web.ServerRunner(web.Server(self._serve))
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
            await asyncio.Event().wait()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        instance = min(self._busy, key=lambda each: self._busy[each])
        self._busy[instance] += 1
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _OF_ONE_HOP}
            body, url = await request.read(), instance + request.path_qs
            async with self._http.request(request.method, url, data=body, headers=headers) as got:
                headers = {name: value for name, value in got.headers.items() if name.lower() not in _OF_ONE_HOP}
                if "Content-Length" in got.headers:
                    return web.Response(status=got.status, headers=headers, body=await got.read())
                answer = web.StreamResponse(status=got.status, headers=headers)
                await answer.prepare(request)
                async for piece in got.content.iter_any():
                    await answer.write(piece)
                return answer
        finally:
            self._busy[instance] -= 1


if __name__ == "__main__":
    uvloop.run(Plain([f"http://127.0.0.1:{each}" for each in sys.argv[2:]]).run(int(sys.argv[1])))
