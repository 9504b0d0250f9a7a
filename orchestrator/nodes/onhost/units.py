"""systemd's units of instances on this host: how they stand, and what they said last. Asks systemctl and the journal.

What is done to them is `changes`' part.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Iterable

# One environment an instance, for root alone; the unit's template reads it.
INSTANCES = Path("/etc/ollamactl/instances")
TEMPLATE = Path("/etc/systemd/system/ollama@.service")
TLS_TEMPLATE = Path("/etc/systemd/system/ollama-tls@.service")
# Of an instance's environment: where TLS is ended for it, host and port; without it, it is not behind TLS.
TLS_LISTENS = "OLLAMACTL_TLS"
UNIT = re.compile(r"ollama@(.+)\.service")
# systemd answers within milliseconds, a stop within twice the template's TimeoutStopSec.
ANSWERS_S = 20.0
LINES = 10
_SHOWN = {
    "LoadState": "load",
    "UnitFileState": "file",
    "ActiveState": "active",
    "SubState": "sub",
    "MainPID": "pid",
    "NRestarts": "restarts",
    "StateChangeTimestampMonotonic": "changed_us",
    "ExecMainCode": "code",
    "ExecMainStatus": "status",
    "InvocationID": "run",
    "Result": "result",
    "User": "user",
}
_NUMBERS = ("pid", "restarts", "changed_us", "code", "status")
_PROCESS_EXITED = "98e322203f7a4ed290d09fe03c09fe15"  # systemd's message ids, stable by promise (sd-messages.h)
_HOW = {"exited": 1, "killed": 2, "dumped": 3}  # CLD_EXITED and so on, as ExecMainCode has them


class Trouble(Exception):
    """What could not be done here, in one line for the operator."""


def unit_of(instance: str) -> str:
    return f"ollama@{instance}.service"


def tls_unit_of(instance: str) -> str:
    """What ends TLS for it."""
    return f"ollama-tls@{instance}.service"


def environment_file(instance: str) -> Path:
    return INSTANCES / f"{instance}.env"


def systemctl(*words: str, wait_s: float = ANSWERS_S) -> subprocess.CompletedProcess[str]:
    """Run systemctl. Raises Trouble where it is not there or does not answer."""
    return _ran(("systemctl", "--no-pager", *words), wait_s)


def _ran(command: Iterable[str], wait_s: float) -> subprocess.CompletedProcess[str]:
    words = list(command)
    environment = {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
    try:
        return subprocess.run(  # noqa: S603 (a list of words)
            words, capture_output=True, text=True, errors="replace", timeout=wait_s, env=environment, check=False
        )
    except FileNotFoundError as error:
        raise Trouble(f"no {words[0]} there: instances are kept by systemd") from error
    except subprocess.TimeoutExpired as error:
        raise Trouble(f"{words[0]} did not answer within {wait_s:g} s") from error


def looks(*instances: str) -> dict[str, dict[str, Any]]:
    """How units stand, by instance: these, or all that run, wait or are to run."""
    wanted = [unit_of(each) for each in instances]
    if not instances:
        wanted = ["ollama@*.service", *(unit_of(each.name[: -len(".env")]) for each in INSTANCES.glob("*.env"))]
    told = systemctl("show", "--property=Id," + ",".join(_SHOWN), "--", *wanted)
    if "Failed to connect to bus" in told.stderr:
        raise Trouble("systemd does not run there, and instances are kept by it")
    if told.returncode:
        raise Trouble(last_line(told.stderr) or f"systemctl show ended with status {told.returncode}")
    found = {}
    for block in told.stdout.split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        named = UNIT.fullmatch(fields.get("Id", ""))
        if named:
            found[named[1]] = _look(fields)
    return found


def _look(fields: dict[str, str]) -> dict[str, Any]:
    look: dict[str, Any] = {name: fields.get(shown, "") for shown, name in _SHOWN.items()}
    for name in _NUMBERS:
        look[name] = int(look[name] or 0)
    return look


def ending(instance: str, run: str) -> dict[str, Any]:
    """How one run of a unit ended, and the last lines that it wrote. `reason`: why systemd could not start it."""
    unit = unit_of(instance)
    end: dict[str, Any] = {"code": 0, "status": 0, "lines": [], "reason": ""}
    own, about = (f"_SYSTEMD_INVOCATION_ID={run}", f"_SYSTEMD_UNIT={unit}"), (f"INVOCATION_ID={run}", f"UNIT={unit}")
    for line in _journal(*own, "+", *about):
        entry = json.loads(line)
        text = _text(entry.get("MESSAGE"))
        if "UNIT" not in entry:
            end["lines"].append(text)
        elif entry.get("MESSAGE_ID") == _PROCESS_EXITED:
            end.update(code=_HOW.get(entry.get("EXIT_CODE"), 0), status=int(entry.get("EXIT_STATUS") or 0))
        elif ": Failed to " in text and not end["reason"]:  # the first is the cause, others follow from it
            end["reason"] = text.split(": ", 1)[1].replace("/run/systemd/unit-root", "")
    end["lines"] = end["lines"][-LINES:]
    return end


def last_words(unit: str) -> str:
    """The last line that a unit wrote; '' where it wrote none."""
    lines = _journal(f"_SYSTEMD_UNIT={unit}")
    return _text(json.loads(lines[-1]).get("MESSAGE")) if lines else ""


def _journal(*which: str) -> list[str]:
    """The last entries, as JSON; none where the journal does not answer, as an end without words is one, too."""
    words = ("journalctl", "--no-pager", "--quiet", "--output=json", "--lines=100", *which)
    try:
        _ran(("journalctl", "--sync"), ANSWERS_S)  # the last lines may still be on their way
        return _ran(words, ANSWERS_S).stdout.splitlines()
    except Trouble:
        return []


def _text(message: Any) -> str:
    """A message of the journal; one with bytes that are no text comes as a list of them."""
    if isinstance(message, list):
        return bytes(message).decode(errors="replace")
    return str(message or "")


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2].strip()
