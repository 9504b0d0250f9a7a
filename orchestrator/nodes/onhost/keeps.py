"""What keeps instances on this host for a controller elsewhere: answers what it is asked, and tells what changes.

It reads a line of JSON a request and writes a line an answer; requests run side by side, those of one instance one
after the other. A change of any unit is told within a second, without being asked. It ends with its standard input,
or when nothing was heard for so long that nobody can be there.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import defaultdict
from typing import Any

from orchestrator.nodes.onhost import changes, groups, units
from orchestrator.nodes.onhost.ollamas import MARK
from orchestrator.nodes.onhost.units import Trouble

# A controller says something every few seconds; a connection whose other side lost its power would stay for hours.
SILENCE_ENDS_S = 60.0
LOOK_EVERY_S = 1.0
# Whether its processes are there costs a file each, so that is looked at more often.
GLANCE_EVERY_S = 0.2
_CHANGES = ("start", "restart", "stop")


class Service:
    """`known`: by instance, its process and its run as the controller saw them last, to tell what ended since."""

    def __init__(self, known: dict[str, Any]) -> None:
        self._told: dict[str, Any] | None = None
        self._known = known
        self._writing, self._looking = threading.Lock(), threading.Lock()
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._heard_s = time.monotonic()

    # --- asked -----------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer requests until the input ends."""
        threading.Thread(target=self._watch, daemon=True).start()
        for line in iter(sys.stdin.buffer.readline, b""):
            self._heard_s = time.monotonic()
            threading.Thread(target=self._handle, args=(json.loads(line),), daemon=True).start()

    def _handle(self, request: dict[str, Any]) -> None:
        try:
            with self._turns[request.get("instance", "")]:
                answer = getattr(self, "on_" + request["verb"])(request)
            if request["verb"] in _CHANGES:
                self._look()  # what was asked for is told, too, and before the answer
        except (Trouble, OSError) as error:
            self._say({"id": request["id"], "error": str(error)})
        except Exception as error:  # noqa: BLE001 (whoever asked must not wait for an answer that never comes)
            self._say({"id": request["id"], "error": f"{request['verb']}: {type(error).__name__}: {error}"})
        else:
            self._say({"id": request["id"], "answer": answer})

    def on_ping(self, request: dict[str, Any]) -> None:
        """Nothing but an answer."""

    def on_start(self, request: dict[str, Any]) -> None:
        about = ("instance", "text", "environment", "port", "ready_s", "user")
        changes.start(*(request[each] for each in about))

    def on_restart(self, request: dict[str, Any]) -> None:
        changes.restart(request["instance"])

    def on_stop(self, request: dict[str, Any]) -> None:
        changes.stop(request["instance"])

    def on_list(self, request: dict[str, Any]) -> dict[str, Any]:
        return _aged(units.looks())

    def on_marks(self, request: dict[str, Any]) -> dict[str, str]:
        """What the running processes were started with, not what a file says by now."""
        found = {name: groups.environment(look["pid"]).get(MARK) for name, look in units.looks().items() if look["pid"]}
        return {name: mark for name, mark in found.items() if mark is not None}

    def on_listens(self, request: dict[str, Any]) -> bool:
        pids = groups.members().get(units.unit_of(request["instance"]), [])
        return groups.listens(pids, request["port"])

    def on_held(self, request: dict[str, Any]) -> dict[str, Any]:
        """By instance, its processes and what they hold of the memory."""
        found = {}
        for unit, pids in groups.members().items():
            named = units.UNIT.fullmatch(unit)
            if named:
                found[named[1]] = {"pids": pids, "ram_bytes": groups.resident_bytes(pids)}
        return found

    # --- told ------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while time.monotonic() - self._heard_s < SILENCE_ENDS_S:
            try:
                self._look()
            except (Trouble, OSError) as error:
                self._say({"problem": str(error)})
            self._wait()
        os._exit(1)  # nobody reads, so nothing may wait to be written

    def _look(self) -> None:
        with self._looking:
            now = units.looks()
            if now == self._told:
                return
            ended = {name: was["run"] for name, was in self._known.items() if _has_ended(was, now.get(name))}
            ends = {name: units.ending(name, run) for name, run in ended.items()}
            self._told, self._known = now, now
            self._say({"looks": _aged(now), "ends": ends})

    def _wait(self) -> None:
        """Until the next look is due, or a process that ran is gone."""
        running = [look["pid"] for look in (self._told or {}).values() if look["pid"]]
        due = time.monotonic() + LOOK_EVERY_S
        while time.monotonic() < due:
            time.sleep(GLANCE_EVERY_S)
            if not all((groups.PROC / str(pid)).exists() for pid in running):
                return

    def _say(self, message: dict[str, Any]) -> None:
        with self._writing:
            sys.stdout.write(json.dumps(message, separators=(",", ":")) + "\n")
            sys.stdout.flush()


def _has_ended(was: dict[str, Any], now: dict[str, Any] | None) -> bool:
    """Whether the process that ran then is no longer the one that runs."""
    return bool(was["pid"]) and (now is None or not now["pid"] or now["run"] != was["run"])


def _aged(looks: dict[str, Any]) -> dict[str, Any]:
    """With how long ago each state began, as clocks differ between hosts."""
    now_us = time.monotonic() * 1e6
    return {name: {**look, "age_s": (now_us - look["changed_us"]) / 1e6} for name, look in looks.items()}


def main(bundle: dict[str, Any]) -> None:
    """As it is started on another host: `bundle` is what was sent."""
    try:
        Service(bundle["known"]).serve()
    finally:
        os._exit(0)  # threads may wait for systemd, which goes on by itself
