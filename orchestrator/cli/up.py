"""`ollamactl up` and `down`: the screen of a running cluster, and its start and end from a script."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.markup import escape
from rich.status import Status

from orchestrator.app.live_settings import Wish
from orchestrator.app.loop import run
from orchestrator.app.up import READY_FD, Ready, Supervisor
from orchestrator.cli.output import console, errors
from orchestrator.core.errors import HostError
from orchestrator.nodes.state_lock import read_holder

# A clean end drains the gateways (30 s) and then stops Redis.
DOWN_TIMEOUT_S = 60.0


def run_up(
    *,
    state: Path,
    config: Path | None,
    listen: str | None,
    simulate: str | None,
    detach: bool,
    ready_file: Path | None,
) -> int:
    """Run the cluster in the foreground, or start one that stays. Raises OrchestratorError."""
    state = state.absolute()
    if detach:
        return _detached(state, config, listen, simulate, ready_file)
    screen = TerminalScreen()
    wish = Wish(state, config.absolute() if config else None, listen, simulate, ready_file)
    try:
        return run(Supervisor(wish, screen).run)
    finally:
        screen.close()


def run_down(state: Path) -> int:
    """End the cluster of `state`. Raises HostError where none runs there, or it does not end."""
    holder = read_holder(state)
    if holder is None:
        raise HostError(f"no cluster runs with --state {state}")
    try:
        descriptor = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        return 0
    with os.fdopen(descriptor):
        os.kill(holder.pid, signal.SIGTERM)
        if not select.select([descriptor], [], [], DOWN_TIMEOUT_S)[0]:
            raise HostError(f"process {holder.pid} has not ended within {DOWN_TIMEOUT_S:g} s; see {state}/logs")
    console.print("ended")
    return 0


class TerminalScreen:
    """Lines and a spinner on a terminal; lines alone where the output goes elsewhere."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._last = ""
        self._status: Status | None = None

    def step(self, text: str) -> None:
        """What is being done now."""
        if text == self._last:
            return
        self._last = text
        if not console.is_terminal:
            console.print(
                f"[{time.monotonic() - self._began_s:5.1f} s] {text}", highlight=False, markup=False, soft_wrap=True
            )
            return
        if self._status is None:
            self._status = console.status(escape(text))
            self._status.start()
        self._status.update(escape(text))

    def warn(self, text: str) -> None:
        errors.print(f"[yellow]{escape(text)}[/yellow]", highlight=False, soft_wrap=True)

    def ready(self, told: Ready) -> None:
        """The whole screen of a cluster that answers."""
        self.close()
        console.print()
        for reply in told.replies:
            _print_reply(reply.tier, reply.question, reply.text)
            where = f"{reply.instance} · {reply.model}" if reply.instance else f"answer cache ({reply.cache})"
            tokens = f" · {reply.prompt_tokens} + {reply.completion_tokens} tokens" if reply.completion_tokens else ""
            console.print(f"         [dim]{where} · {reply.seconds * 1e3:.0f} ms{tokens}[/dim]", highlight=False)
        console.print(f"\n[bold green]ready[/bold green] after {told.seconds:.1f} s: {told.engine}", highlight=False)
        _print_notes(told)
        _print_next_steps(told)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def _print_reply(tier: str, question: str, text: str) -> None:
    console.print(f"[bold cyan]{tier:>6}[/bold cyan]   {escape(question)}", highlight=False)
    console.print(f"         → {escape(' '.join(text.split()))}", highlight=False)


def _print_notes(told: Ready) -> None:
    for note in told.notes:
        console.print(f"  · {escape(note)}", highlight=False, soft_wrap=True)
    colour = "green" if told.cache == "ON" else "red"
    console.print(
        f"  · answer cache [{colour}]{told.cache}[/{colour}] · settings: {told.settings_from}", highlight=False
    )


def _print_next_steps(told: Ready) -> None:
    program = _program()
    state = f" --state {told.state}"
    console.print(f"\n  endpoint     {told.endpoint}   speaks Ollama's API and OpenAI's (/v1)", highlight=False)
    console.print(f"  status page  {told.endpoint}/status", highlight=False)
    console.print(f"  logs         {told.state}/logs", highlight=False)
    console.print("  try")
    body = '{"model": "auto", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}'
    for line in (
        f"curl {told.endpoint}/api/chat -d '{body}'",
        f'{program} ask "otoyol hız limiti"{state}',
        f"{program} status{state}",
        f"{program} plan --simulate '3x RTX 4090, 1x A100-40GB'",
    ):
        console.print(f"    {escape(line)}", highlight=False, soft_wrap=True)
    console.print("\nCtrl-C ends it.\n")


def _program() -> str:
    try:
        return str(Path(sys.argv[0]).absolute().relative_to(Path.cwd()))
    except ValueError:
        return sys.argv[0]


def _detached(
    state: Path, config: Path | None, listen: str | None, simulate: str | None, ready_file: Path | None
) -> int:
    """Start `up` in a session of its own; return when it is ready, or with its last words when it ends before."""
    logs = state / "logs"
    try:
        for folder in (state, logs):  # each private: a parent that mkdir makes on the way would not be
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = (logs / "up.log").open("wb")
    except OSError as why:
        raise HostError(f"cannot write to {logs}: {why.strerror}; name another folder with --state") from why
    argv = [sys.executable, "-m", "orchestrator.cli", "up", "--state", str(state)]
    given = (("--config", config), ("--listen", listen), ("--simulate", simulate), ("--ready-file", ready_file))
    for option, value in given:
        argv += [option, str(value)] if value is not None else []
    told, tell = os.pipe()
    with log:
        child = subprocess.Popen(  # noqa: S603 - our own program, no shell
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(tell,),
            env={**os.environ, READY_FD: str(tell)},
        )
    os.close(tell)
    with os.fdopen(told, "rb") as ready:
        is_ready = bool(ready.read(1))  # ends with a byte, or with the child
    text = (logs / "up.log").read_text(encoding="utf-8", errors="replace")
    (console if is_ready else errors).print(
        text.replace("Ctrl-C ends it.", "").rstrip(), markup=False, highlight=False, soft_wrap=True
    )
    if not is_ready:
        return child.wait()
    console.print(f"\nruns on as process {child.pid}; end it with: {_program()} down --state {state}", highlight=False)
    return 0
