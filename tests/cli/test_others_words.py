"""What others wrote is shown in a terminal, and tells it nothing: answers, names of models and machines, errors."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import orchestrator
from orchestrator.app.questions import Reply
from orchestrator.cli import calls, limits, operate, queue, status
from orchestrator.cli.output import below, json_text, literal, readable

# It would put words of its own into the clipboard, and clear the screen; C1's one character does as ESC [ does.
HOSTILE = "\x1b]52;c;cm0gLXJmIH4=\x07\x1b[2J\x9b2J\x7f\r[red]x[/red]"
SHOWN = "\ufffd]52;c;cm0gLXJmIH4=\ufffd\ufffd[2J\ufffd2J\ufffd\ufffd[red]x[/red]"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is written to the terminal."""
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, color_system=None, width=400, highlight=False)
    for module in (calls, limits, operate, queue, status):
        monkeypatch.setattr(module, "console", terminal)
    monkeypatch.setattr("orchestrator.cli.output.console", terminal)
    return written


def is_harmless(text: str) -> bool:
    return text == "" or not set(text) & {chr(each) for each in (*range(9), *range(11, 32), *range(127, 160))}


def test_a_terminals_commands_are_shown_and_lines_and_tabs_stay():
    assert readable(f"a\tb\nc{HOSTILE}") == f"a\tb\nc{SHOWN}"
    assert readable("".join(map(chr, range(0x20, 0x7F))) + "ığüşöç 日本 🙂") == "".join(map(chr, range(0x20, 0x7F))) + (
        "ığüşöç 日本 🙂"
    )


def test_markup_of_others_is_shown_too():
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=400, highlight=False)
    with console.capture() as captured:
        console.print(literal(HOSTILE), below(HOSTILE), sep="\n")
    assert captured.get().count(SHOWN) == 2


def test_every_command_prints_others_words_by_the_one_function():
    folder = Path(orchestrator.__file__).parent / "cli"
    assert [each.name for each in folder.rglob("*.py") if "rich.markup import" in each.read_text()] == ["output.py"]


def test_json_has_no_command_for_the_terminal_and_is_read_as_it_was():
    value = {"name": HOSTILE, HOSTILE: ["ğ", 1, None]}
    assert is_harmless(json_text(value))
    assert json.loads(json_text(value)) == value
    assert "ğ" in json_text(value, indent=None)


@pytest.mark.parametrize("as_json", [False, True])
def test_an_answer_cannot_command_the_terminal(screen, monkeypatch, capsys, as_json):
    reply = Reply("?", HOSTILE, HOSTILE, HOSTILE, HOSTILE, "", 1.0, 2, 3, is_simulated=False)

    async def ask(*_: object, **__: object) -> Reply:
        return reply

    monkeypatch.setattr(status, "ask", ask)
    state: Any = None
    status.run_ask(state, "127.0.0.1:1", "key", "?", model="auto", tokens=None, as_json=as_json)
    out = screen.getvalue() + capsys.readouterr().out
    assert "52;c;cm0gLXJmIH4=" in out
    assert is_harmless(out)


def test_what_a_host_said_of_a_change_of_the_authority_cannot_command_the_terminal(screen, monkeypatch, tmp_path):
    words = f"waits for gpu-2 (gpu-2: connect to [fd00::5]:22 failed; cat: [/etc/x]: {HOSTILE})"

    async def begin(_: object) -> AsyncIterator[str]:
        yield words

    monkeypatch.setattr(operate, "begin", begin)
    operate.run_renew_authority(tmp_path)
    assert screen.getvalue() == f"{readable(words)}\n"


def told() -> dict[str, Any]:
    """A status in which every name and every reason is somebody else's."""
    instance = {
        "id": HOSTILE, "state": HOSTILE, "in_flight": 0, "slots": 1, "host": HOSTILE, "port": 1, "is_given": True,
        "accelerators": ["uuid"], "is_simulated": False, "reason": HOSTILE,
    }  # fmt: skip
    pool = {
        "name": HOSTILE, "context": 1, "queue_depth": 0, "oldest_wait_s": 0.0, "expected_wait_s": 0.0, "service_s": 1.0,
        "keys": [{"key": HOSTILE, "waiting": 1, "tokens": 2}], "instances": [instance],
    }  # fmt: skip
    server = {
        "name": HOSTILE, "state": HOSTILE, "room": 0, "engine": HOSTILE, "engine_version": HOSTILE, "models": [],
        "resident": [HOSTILE], "reason": HOSTILE,
    }  # fmt: skip
    machine = {"name": HOSTILE, "gateways": 1, "heard_s": 1.0, "controller": HOSTILE, "why": HOSTILE}
    cache = {
        "state": "ON", "faq_entries": 0, "layers": [{"name": HOSTILE, "is_on": False, "why": HOSTILE}], "hits": {},
        "misses": {}, "reported_wrong": {}, "joins": 0, "answers": 0, "bytes": 0,
    }  # fmt: skip
    return {
        "cache": cache, "store": HOSTILE, "keys": HOSTILE, "is_simulated": False, "machines": [machine, machine],
        "usage": {}, "tiers": {HOSTILE: {"model": HOSTILE, "backup": HOSTILE}}, "given": [server], "pools": [pool],
        "nodes": [{"accelerators": [{"uuid": "uuid", "name": HOSTILE, "index": 0}]}], "routed": {}, "replayed": {},
        "notes": [HOSTILE],
        "limits": [{"scope": HOSTILE, "limits": {"rpm": {"used": 1, "allowed": 2}}, "used_up": None}],
    }  # fmt: skip


def test_what_machines_and_models_are_called_cannot_command_the_terminal(screen):
    status._draw(told())
    queue.draw(queue._drawn([queue._queue(each) for each in told()["pools"]]))
    limits.draw(limits._drawn(told()["limits"]))
    row: dict[str, Any] = dict.fromkeys(calls._SHOWN, HOSTILE) | {"at_ms": 0}
    calls._draw([row], calls._SHOWN)
    assert screen.getvalue().count("]52;c;") > 15
    assert is_harmless(screen.getvalue())
