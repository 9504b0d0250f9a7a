"""The screen of a running cluster: progress, the first answers, what to try next, and what happens from then on."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.status import Status

from orchestrator.app.paths import default_state
from orchestrator.app.questions import Reply
from orchestrator.app.starting import Ready
from orchestrator.cli.output import console, errors, hanging, literal, program, readable


class TerminalScreen:
    """Lines and a spinner on a terminal; lines alone where the output goes elsewhere.

    A terminal that was closed and a pipe that nobody reads any more are no reason for a cluster to fail: it runs on
    without a screen, or ends in order.
    """

    def __init__(self, *, is_detached: bool = False) -> None:
        self._is_detached = is_detached
        self._began_s = time.monotonic()
        self._last = ""
        self._status: Status | None = None

    def step(self, text: str) -> None:
        """What is being done now."""
        if text == self._last:
            return
        self._last = text
        with _as_long_as_read(console):
            if not console.is_terminal:
                console.print(f"[{time.monotonic() - self._began_s:5.1f} s] {readable(text)}", markup=False)
                return
            if self._status is None:
                self._status = console.status(literal(text))
                self._status.start()
            self._status.update(literal(text))

    def tell(self, text: str) -> None:
        """Something happened that is as it should be."""
        with _as_long_as_read(console):
            console.print(f"{_clock()} {literal(text)}", soft_wrap=True)

    def warn(self, text: str) -> None:
        """Something happened that the operator may want to do something about."""
        with _as_long_as_read(errors):
            errors.print(f"{_clock()} [yellow]{literal(text)}[/yellow]", soft_wrap=True)

    def ready(self, told: Ready) -> None:
        """The whole screen of a cluster that answers."""
        self.close()
        with _as_long_as_read(console):
            console.print()
            for reply in told.replies:
                _print_reply(reply)
            console.print(f"\n[bold green]ready[/bold green] after {told.seconds:.1f} s: {literal(told.engine)}")
            _print_notes(told)
            _print_next_steps(told)
            console.print("" if self._is_detached else "\nCtrl-C ends it.\n")

    def close(self) -> None:
        """Take the spinner away."""
        if self._status is not None:
            with _as_long_as_read(console):
                self._status.stop()
            self._status = None


@contextmanager
def _as_long_as_read(target: Console) -> Iterator[None]:
    try:
        yield
    except (OSError, SystemExit):  # SystemExit is rich's answer to a broken pipe
        target.quiet = True
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a descriptor is needed, and what Python flushes at exit
            os.dup2(nowhere.fileno(), 2 if target.stderr else 1)


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _print_reply(reply: Reply) -> None:
    hanging(f"[bold cyan]{literal(reply.tier):>6}[/bold cyan]   ", literal(reply.question))
    hanging("         → ", literal(" ".join(reply.text.split())))
    where = f"{reply.instance} · {reply.model}" if reply.instance else f"answer cache ({reply.cache})"
    tokens = f" · {reply.prompt_tokens} + {reply.completion_tokens} tokens" if reply.completion_tokens else ""
    hanging("           ", f"[dim]{literal(where)} · {reply.seconds * 1e3:.0f} ms{tokens}[/dim]")


def _print_notes(told: Ready) -> None:
    for note in told.notes:
        hanging("  · ", literal(note))
    colour = "green" if told.cache == "ON" else "red"
    hanging("  · ", f"answer cache [{colour}]{told.cache}[/{colour}] · settings: {literal(told.settings_from)}")


def _print_next_steps(told: Ready) -> None:
    called = program()
    console.print(f"\n  endpoint     {told.endpoint}   speaks Ollama's, OpenAI's and Anthropic's API")
    console.print(f"  status page  {told.endpoint}/status")
    console.print(f"  logs         {literal(told.state)}/logs", soft_wrap=True)
    console.print("  try")
    for line in _to_try(told, called):
        console.print(f"    {literal(line)}", soft_wrap=True)


def _to_try(told: Ready, called: str) -> Iterator[str]:
    state = state_option(told.state)
    if told.model:
        body = {"model": told.model, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
        yield f"curl {told.endpoint}/api/chat -d '{json.dumps(body)}'"
        named = "" if told.model == "auto" else f" --model {shlex.quote(told.model)}"
        yield f'{called} ask "otoyol hız limiti"{named}{state}'
    yield f"{called} status{state}"
    if told.has_hosts:
        yield f"{called} deploy{state}"
    elif told.deploys:
        yield f"{called} plan --simulate '3x RTX 4090, 1x A100-40GB'"


def state_option(state: str) -> str:
    """What a command needs to find this cluster: nothing where it lies at the default place."""
    return "" if Path(state) == default_state() else f" --state {shlex.quote(state)}"
