"""A program on this host that lives only as long as it hears from whoever started it.

The input ends with the connection; one whose other side lost its power or its cable stays open, so that silence ends
the program as well. Lines come on the standard input, empty ones only to be heard.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_writing = threading.Lock()


def heard(silence_s: float) -> Iterator[dict[str, Any]]:
    """Each line that is not empty, as JSON; the end of the input, or of patience with it, ends this."""
    lines: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        for line in iter(sys.stdin.buffer.readline, b""):
            lines.put(line)
        lines.put(b"")

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=silence_s)
        except queue.Empty:
            return
        if not line:
            return
        if line.strip():
            yield json.loads(line)


def end_with_input(silence_s: float) -> None:
    """Have this process end when nobody is heard any more, whatever it is doing then."""

    def wait() -> None:
        for _ in heard(silence_s):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def say(told: dict[str, Any]) -> None:
    """One line to whoever started this. That nobody reads it any more is what the input tells."""
    with _writing:
        try:
            sys.stdout.write(json.dumps(told, separators=(",", ":")) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            end(1)


def end(status: int = 0, told: dict[str, Any] | None = None) -> None:
    """Out, without waiting for threads that wait themselves."""
    if told is not None:
        say(told)
    os._exit(status)
