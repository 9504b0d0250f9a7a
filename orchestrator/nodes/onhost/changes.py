"""Instances started, restarted and stopped as systemd's units on this host. As root; each raises Trouble.

The order of steps leaves, wherever it is cut off, something that the next look shows and the next step repairs: the
environment is there before the unit and goes after it.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.nodes.onhost import groups
from orchestrator.nodes.onhost.units import (
    TEMPLATE,
    TLS_LISTENS,
    TLS_TEMPLATE,
    Trouble,
    ending,
    environment_file,
    last_line,
    last_words,
    looks,
    systemctl,
    tls_unit_of,
    unit_of,
)
from orchestrator.whole_file import write_whole

# Twice the template's TimeoutStopSec (until SIGKILL, and until systemd gives up), and a little.
STOPS_S = 50.0
STARTS_S = 60.0
# A killed process is gone at once, except one that is stuck inside the driver.
KILL_WAIT_S = 5.0
_LOOK_EVERY_S = 0.05


def start(instance: str, text: str, environment: dict[str, str], port: int | None, ready_s: float, user: str) -> None:
    """Have it run with `environment`, also after a boot; nothing changes where it does already.

    `text` is that environment as a file. `port`: it has started once it listens there. One that does not start is not
    there afterwards. `user` is whom the template is to have it run as.
    """
    unit, file = unit_of(instance), environment_file(instance)
    look = _loaded(instance, user)
    runs_so = _runs_with(look, file, text, environment)
    if not runs_so:
        _write(file, text)
    try:
        _enable(look, unit)
        if not runs_so:
            _begin(instance)
        if port is not None:
            _wait_until_it_listens(instance, port, ready_s)
        if TLS_LISTENS in environment:
            _have_tls(instance, int(environment[TLS_LISTENS].rpartition(":")[2]), ready_s)
    except Trouble:
        stop(instance)
        raise


def restart(instance: str) -> None:
    """Have its processes end and start, with the environment that it has."""
    if not environment_file(instance).exists():
        raise Trouble(f"there is no {unit_of(instance)}")
    _begin(instance)


def stop(instance: str) -> None:
    """Have no such unit; nothing of its control group runs when this returns."""
    unit = unit_of(instance)
    look = looks(instance)[instance]
    if look["file"] == "enabled":
        _checked(f"disable {unit}", systemctl("disable", "--", unit))
    if look["active"] != "inactive":
        systemctl("stop", "--", unit, wait_s=STOPS_S)
    _end_what_is_left(unit)
    with suppress(FileNotFoundError):  # it was not there, or half a stop was done before
        environment_file(instance).unlink()
    systemctl("reset-failed", "--", unit)


def _loaded(instance: str, user: str) -> dict[str, Any]:
    look = looks(instance)[instance]
    if look["load"] == "not-found" and TEMPLATE.exists():
        systemctl("daemon-reload")
        look = looks(instance)[instance]
    if look["load"] == "not-found":
        raise Trouble(f"{TEMPLATE} is not there: `ollamactl deploy` puts it there")
    if look["user"] != user:
        raise Trouble(f"{TEMPLATE} has User={look['user']} and not {user}: `ollamactl deploy` writes it anew")
    return look


def _runs_with(look: dict[str, Any], file: Path, text: str, environment: dict[str, str]) -> bool:
    """Whether it runs just so: by its file, and by what its process was really started with."""
    if look["active"] != "active" or not look["pid"] or not file.exists() or file.read_bytes() != text.encode():
        return False
    return environment.items() <= groups.environment(look["pid"]).items()


def _write(file: Path, text: str) -> None:
    """Whole or not at all, for root alone."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(file, text, mode=0o600)
    except OSError as error:
        raise Trouble(f"{file} cannot be written: {error.strerror}") from error


def _enable(look: dict[str, Any], unit: str) -> None:
    if look["file"] != "enabled":
        _checked(f"enable {unit}", systemctl("enable", "--", unit))


def _begin(instance: str) -> None:
    """Have it start, or start anew. Raises Trouble with the cause, as the journal has it."""
    unit = unit_of(instance)
    systemctl("reset-failed", "--", unit)
    told = systemctl("restart", "--", unit, wait_s=STOPS_S + STARTS_S)
    if told.returncode:
        end = ending(instance, looks(instance)[instance]["run"])
        why = end["reason"] or (end["lines"] or [last_line(told.stderr)])[-1]
        raise Trouble(f"{unit} does not start: {why}")


def _wait_until_it_listens(instance: str, port: int, ready_s: float) -> None:
    """Raises Trouble where it ends before, or does not in time."""
    unit, deadline = unit_of(instance), time.monotonic() + ready_s
    run = looks(instance)[instance]["run"]
    while not groups.listens(groups.members().get(unit, ()), port):
        look = looks(instance)[instance]
        if look["run"] != run or not look["pid"]:
            end = ending(instance, run)
            said = (end["lines"] or [end["reason"]])[-1]
            raise Trouble(f"{unit} ended before it listened on port {port}: {said or 'it said nothing'}")
        if time.monotonic() > deadline:
            raise Trouble(f"{unit} did not listen on port {port} within {ready_s:g} s")
        time.sleep(_LOOK_EVERY_S)  # the kernel has no event for that


def _have_tls(instance: str, port: int, ready_s: float) -> None:
    """TLS ended for it on this port. Raises Trouble, with what its unit said, where that cannot be."""
    unit, deadline = tls_unit_of(instance), time.monotonic() + ready_s
    if not TLS_TEMPLATE.exists():
        raise Trouble(f"{TLS_TEMPLATE} is not there: `ollamactl deploy` puts it there")
    _checked(f"start {unit}", systemctl("start", "--", unit, wait_s=STARTS_S))
    while not groups.listens(groups.members().get(unit, ()), port):
        state = systemctl("show", "--property=ActiveState", "--value", "--", unit).stdout.strip()
        if state != "active" or time.monotonic() > deadline:
            raise Trouble(f"{unit} does not listen on port {port}: {last_words(unit) or 'it said nothing'}")
        time.sleep(_LOOK_EVERY_S)  # the kernel has no event for that


def _end_what_is_left(unit: str) -> None:
    """systemd does not wait for a control group's last processes everywhere."""
    deadline = time.monotonic() + KILL_WAIT_S
    while True:
        left = groups.members().get(unit, [])
        if not left:
            return
        if time.monotonic() > deadline:
            raise Trouble(
                f"process {left[0]} of {unit} does not end even when it is killed: it may be stuck in the driver, "
                "which a reboot frees"
            )
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_EVERY_S)


def _checked(what: str, told: Any) -> None:
    if told.returncode:
        raise Trouble(f"{what}: {last_line(told.stderr) or f'status {told.returncode}'}")
