"""A supervisor that becomes another program in the same process (execve(2)): what it hands to that, and how.

Its children stay its children, its descriptors stay open. What they are stands in a file in memory (memfd_create(2)),
because units' environments hold secrets; its number stands in an environment variable.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from orchestrator.core.errors import HostError
from orchestrator.nodes.keeper import HandedOver

HANDED_FD = "OLLAMACTL_HANDED_FD"
# Held back while nobody could take them: by default they would end the process.
HELD_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Succession:
    """Descriptors are numbers that are open beyond execve. `times`: how often this process has become another."""

    keeper: HandedOver
    lock: int
    started_unix_ms: int
    address: int
    sockets: Mapping[str, int] = field(default_factory=dict)
    times: int = 0


_SUCCESSION: TypeAdapter[Succession] = TypeAdapter(Succession)


def received() -> Succession | None:
    """What the program before this one in the same process left; None: this is the first. Raises HostError."""
    number = os.environ.pop(HANDED_FD, "")
    if not number:
        return None
    with os.fdopen(int(number), "rb") as file:
        file.seek(0)
        try:
            return _SUCCESSION.validate_json(file.read())
        except ValidationError as why:
            raise HostError(f"what the supervisor before left cannot be read by this version: {why}") from why


def hold_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)


def take_signals() -> None:
    """Those that came meanwhile are heard now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)


def become(program: str, succession: Succession) -> None:
    """Run `program`, a Python, with this process's own arguments, in this process. Returns never."""
    handle = os.memfd_create("succession", 0)
    os.write(handle, _SUCCESSION.dump_json(succession))
    os.set_inheritable(handle, True)
    os.environ[HANDED_FD] = str(handle)
    os.execv(program, (program, "-P", "-m", "orchestrator.cli", *sys.argv[1:]))  # noqa: S606 - our own program, no shell
