"""Clients in processes of their own: those that npm has, and those that want other versions than the tests' own.

A player reads one order a line, `{"scene": NAME, ...}`, plays that scene with its client and answers in a line. What
the client said is judged by the test; what it could not do is told with its traceback. It lives on between scenes, so a
connection that ends was ended by the client, not by the end of its process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCENE_WITHIN_S = 60
ENDS_WITHIN_S = 10


class Player:
    """One such process; another one if it ended."""

    def __init__(self, command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> None:
        self._command, self._log, self._env = [*map(str, command)], log, {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def play(self, scene: str, **given: Any) -> Any:
        """What came of `scene`; fails the test where the client failed."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"scene": scene, **given}).encode() + b"\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], SCENE_WITHIN_S)[0]:
            process.send_signal(signal.SIGABRT)  # Python says where it hangs
            process.wait(ENDS_WITHIN_S)
        line = process.stdout.readline()
        assert line, f"the client hung or its process ended:\n{self._log.read_text()}"
        told = json.loads(line)
        assert "failed" not in told, f"{told['failed']}\n{self._log.read_text()}"
        return told["result"]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.end()
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self._env
                )
        return self._process

    def end(self) -> None:
        """The end of its orders is the end of it."""
        if self._process is None:
            return
        try:
            self._process.communicate(timeout=ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


@contextmanager
def player(command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> Iterator[Player]:
    """One whose process is gone at the end."""
    one = Player(command, log, env)
    try:
        yield one
    finally:
        one.end()
