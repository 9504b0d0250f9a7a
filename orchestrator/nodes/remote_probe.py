"""The probe on another host: sent over its connection, running as long as that does, and what it prints as facts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeFacts
from orchestrator.nodes.onhost.gpus import AWAKE_WAIT_S
from orchestrator.nodes.probe import Asked, Seen, bundle
from orchestrator.nodes.sending import RefusedError, is_refusal, program_on
from orchestrator.nodes.ssh import COMMAND_NOT_FOUND, SshError, SshHost

STEP = "look"
# The first look wakes the cards, the others wait for them at most so long; beyond it comes the network's part.
SLACK_S = 10.0


async def look_once(host: SshHost, asked: Asked) -> NodeFacts:
    """The host's facts now. Raises SshError."""
    async with aclosing(looks(host, asked)) as seen:
        async for facts in seen:
            return facts
    raise SshError(host.node, STEP, f"{STEP}: nothing was seen")


async def looks(host: SshHost, asked: Asked) -> AsyncGenerator[NodeFacts, None]:
    """The host's facts, again each interval, for as long as they are asked for. Raises SshError, also at their end.

    Without sudo the look is this user's own: processes of others tell it less.
    """
    may_sudo = await host.may_sudo()
    async with program_on(host, bundle(asked), step=STEP, sudo=may_sudo) as process:
        seen = Seen()
        wait_s = asked.nvml_wait_s + SLACK_S
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    line = await process.stdout.readline()
            except TimeoutError as error:
                raise SshError(host.node, STEP, f"{STEP}: the host was silent for {wait_s:g} s") from error
            if not line.endswith(b"\n"):
                break
            yield _read(host, seen, line)
            wait_s = asked.interval_s + AWAKE_WAIT_S + SLACK_S
        complaint = (await process.stderr.read()).decode(errors="replace").strip()
        await process.wait_closed()
        raise ended(host, STEP, process.exit_status, complaint)


def _read(host: SshHost, seen: Seen, line: bytes) -> NodeFacts:
    try:
        return seen.read(line)
    except HostError as error:
        raise SshError(host.node, STEP, f"{STEP}: {error}") from error


def ended(host: SshHost, step: str, status: int | None, complaint: str) -> SshError:
    """What to say of a program that ended by itself, and was to run as long as its connection."""
    if status == COMMAND_NOT_FOUND or "python3: command not found" in complaint:
        return SshError(host.node, "python3", "no python3 there: install it (`apt-get install python3`)")
    last = complaint.splitlines()[-1] if complaint else "it said nothing"
    if is_refusal(status):
        return RefusedError(host.node, step, f"{step}: {last}")
    return SshError(host.node, step, f"{step}: ended with status {status} ({last})")
