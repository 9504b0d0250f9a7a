"""Simulated instances for tests: real processes on free ports, gone at the end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.nodes.simulator.config import SimulatorConfig, write_config
from tests.forking import Forked
from tests.ports import free_port as free_port
from tests.waiting import WITHIN_S

ROOT = Path(__file__).resolve().parents[2]
# For processes that ask nobody outside: to read all certificates of this machine takes each 100 ms of a core.
NO_AUTHORITIES = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}


@contextmanager
def running(config: SimulatorConfig, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process of `config`, listening. A test may end it; otherwise SIGTERM does, and it must exit with 0."""
    path = folder / f"{config.instance}.json"
    write_config(path, config)
    with started(path) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert b"simulated" in line, line
            yield process
        finally:
            # One that was told already is on its way out; a second signal there would find nobody to take it.
            was_running = process.poll() is None and not process.was_told_to_end
            if was_running:
                process.terminate()
            status = process.wait(WITHIN_S)
            assert not was_running or status == 0


class Process(Forked):
    """A process that remembers whether it was told to end."""

    was_told_to_end = False

    def send_signal(self, sig: int) -> None:
        self.was_told_to_end = self.was_told_to_end or sig == signal.SIGTERM
        super().send_signal(sig)


def started(config: Path) -> Process:
    return Process("orchestrator.nodes.simulator", ["--config", str(config)], env={**os.environ, **NO_AUTHORITIES})
