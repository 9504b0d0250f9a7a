"""An Ollama that does not do as it is told: `python bad_ollama.py PORT FAULTS`, a JSON object of path to answer.

An answer is `[status, body]`, or `[status, body, times]`: after so many times the path behaves. A question to the model
is the path `question`. Also `dies`: it exits. While a file `sick` lies beside that of the calls, everything is
answered 503.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

NAME = "llama3.2:3b"
GOOD: dict[str, Any] = {
    "/api/version": {"version": "0.0-played"},
    "/api/show": {"modelfile": "FROM /models/blobs/sha256-aa\n", "model_info": {}},
    "/api/tags": {"models": [{"model": NAME, "name": NAME}]},
    "/api/generate": {"done": True, "done_reason": "load"},
    "question": {"done": True, "done_reason": "length", "response": "1", "eval_count": 1},
}


def main(port: int, faults: dict[str, Any], calls: Path) -> None:
    if "dies" in faults:
        sys.exit(f"Error: {faults['dies']}")
    loaded: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        about = "question" if b"prompt" in await request.read() else request.path
        with calls.open("a") as file:
            file.write(about + "\n")
        if calls.with_name("sick").exists():
            return web.Response(status=503, text="sick")
        fault = faults.get(about)
        if fault and (len(fault) < 3 or fault[2] > 0):
            if len(fault) > 2:
                fault[2] -= 1
            body = fault[1] if isinstance(fault[1], str) else json.dumps(fault[1])
            return web.Response(status=fault[0], text=body)
        if request.path == "/api/generate":
            loaded[:] = [{"model": NAME, "name": NAME}]
        if request.path == "/api/ps":
            return web.json_response({"models": loaded})
        if request.path == "/api/pull":
            return web.Response(text='{"status": "pulling manifest"}\n{"status": "success"}\n')
        return web.json_response(GOOD[about])

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
