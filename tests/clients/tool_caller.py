"""A simulated instance whose model calls the first tool it is given, and then says what came of it.

What it puts into a tool's arguments has the shape that the tool's schema asks for. Whoever gives no tools hears the
simulator's own words.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from orchestrator.core.model import ToolCall
from orchestrator.nodes.simulator import calls
from orchestrator.nodes.simulator.script import Script
from orchestrator.nodes.simulator.server import main
from orchestrator.nodes.simulator.tokens import split
from orchestrator.nodes.simulator.words import JsonWriter
from orchestrator.nodes.simulator.work import Piece, Reply

ROOT = Path(__file__).resolve().parents[2]
CALL_ID = "call_played1"
PROMPT_TOKENS = 40
ENDS_WITHIN_S = 10


class CallsTools(Script):
    """In place of the simulator's fixed answers: what a call asks decides what is said."""

    def reply(self, asked: str) -> Reply | None:
        told = orjson.loads(asked)
        if not told["tools"]:
            return super().reply(asked)
        role, text = told["turns"][-1]
        if role == "tool":
            pieces = tuple(Piece(text=token) for token in split(f"The tool says: {text}"))
            return Reply(pieces, "stop", PROMPT_TOKENS, tail_tokens=1)
        function = told["tools"][0]["function"]
        call = ToolCall(CALL_ID, function["name"], _arguments(function["parameters"]))
        return Reply((Piece(tool_calls=(call,), tokens=12),), "tool_calls", PROMPT_TOKENS, tail_tokens=1)


def _arguments(schema: Mapping[str, Any]) -> dict[str, Any]:
    value = JsonWriter(schema, random.Random(0), marker="").value()
    assert isinstance(value, dict), schema
    return value


@contextmanager
def calling_tools(config: Path) -> Iterator[None]:
    """The process of such an instance, listening; gone at the end."""
    command = [sys.executable, "-m", __name__, "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        assert b"simulated" in process.stdout.readline()
        yield
    finally:
        process.terminate()
        try:
            process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    setattr(calls, "Script", CallsTools)  # noqa: B010  it is the simulator's own name for it
    sys.exit(main())
