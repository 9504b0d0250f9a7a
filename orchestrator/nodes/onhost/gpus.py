"""The GPUs of this host, at arm's length: `nvml` in a process of its own, whose blocking, crash or nonsense costs the
GPUs and nothing else."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from typing import Any

# Without persistence mode the driver wakes every card at each start of NVML, one to two seconds a card: eight cards
# are slow, not sick.
NVML_WAIT_S = 30.0
# Once awake they answer within milliseconds.
AWAKE_WAIT_S = 6.0
# A killed process is gone at once, except one that is stuck inside the driver.
KILL_WAIT_S = 1.0

# Readers that outlived their kill, stuck in a call into the driver that no signal ends. Until they are gone, another
# would only get stuck beside them.
stuck: list[subprocess.Popen[bytes]] = []


class GpuReader:
    """A process that answers what the GPUs are, started when it is first asked and again after it failed.

    `command` starts it, `given` is what it reads before the first question.
    """

    def __init__(
        self, command: list[str], given: bytes = b"", *, wait_s: float = NVML_WAIT_S, cwd: str | None = None
    ) -> None:
        self._command = command
        self._given = given
        self._wait_s = wait_s
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._complaint = b""

    def read(self) -> dict[str, Any]:
        """What `nvml.Session.read` says, after `wait_s` at most; without it no GPUs, and the reason in `problems`."""
        stuck[:] = [each for each in stuck if each.poll() is None]
        if stuck:
            return _no_gpus(f"the NVIDIA driver still holds process {stuck[0].pid}, which asked it and got no answer")
        wait_s = self._wait_s if self._process is None else min(self._wait_s, AWAKE_WAIT_S)
        try:
            process = self._process = self._process or self._start()
        except OSError as error:
            return _no_gpus(f"no process could be started to read the GPUs ({error}): free memory or raise its limits")
        try:
            answer = _ask(process, wait_s)
        except TimeoutError:
            process.kill()
            self._end(process)
            return _no_gpus(f"the NVIDIA driver did not answer within {wait_s:g} s")
        if answer is None:
            returncode = self._end(process)
            return _no_gpus(_how_it_ended(returncode, self._complaint))
        return answer

    def close(self) -> None:
        """Leave no process behind, nor wait for one that cannot end."""
        if self._process is not None:
            self._end(self._process)

    def _start(self) -> subprocess.Popen[bytes]:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        process = subprocess.Popen(  # noqa: S603 our own module
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, cwd=self._cwd
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; why is asked for when it does not answer
            process.stdin.write(self._given)
            process.stdin.flush()
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> int | None:
        """Have the process end in order, or kill it; its status where it has one."""
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = None
        with suppress(BrokenPipeError):
            process.stdin.close()
        returncode = _waited(process)
        if returncode is None:
            process.kill()
            returncode = _waited(process)
        if returncode is None:
            stuck.append(process)
        process.stdout.close()
        self._errors.seek(0)
        self._complaint = self._errors.read()
        self._errors.close()
        return returncode


def _waited(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=KILL_WAIT_S)
    except subprocess.TimeoutExpired:
        return None


def _ask(process: subprocess.Popen[bytes], wait_s: float) -> dict[str, Any] | None:
    """The process's answer; None where it has ended. Raises TimeoutError."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    deadline, text = time.monotonic() + wait_s, b""
    while True:
        if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        piece = os.read(process.stdout.fileno(), 65536)
        if not piece:
            return None
        text += piece
        answer = _parsed(text)
        if answer is not None:
            return answer


def _parsed(text: bytes) -> dict[str, Any] | None:
    """The last whole line, where that is an answer: the library may print, too."""
    line = text.rpartition(b"\n")[0].rpartition(b"\n")[2]
    try:
        answer = json.loads(line)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def no_gpus(problems: list[str]) -> dict[str, Any]:
    """What is said of GPUs where none can be read."""
    unknown = {"driver_version": None, "cuda_version": None}
    return {"accelerators": [], "gpu_links": [], **unknown, "problems": problems}


def _no_gpus(why: str) -> dict[str, Any]:
    way_out = "its GPUs are left out; `dmesg | grep -iE 'nvrm|xid'` says more, and a reboot loads the driver anew"
    return no_gpus([f"{why}; {way_out}"])


def _how_it_ended(returncode: int | None, complaint: bytes) -> str:
    if returncode is not None and returncode < 0:
        return f"the NVIDIA library ended the process that asked it ({signal.strsignal(-returncode)})"
    last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
    return f"the process that reads the GPUs failed with status {returncode} ({last or 'no message'})"
