"""The steps of a host's base, run on the host: each one looks, and changes what differs.

Sent as a program to hosts that are reached over SSH. It prints a line of JSON for each step, and stops at the first one
that cannot be done. Which steps, and in which order, is decided by who sends it.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

from orchestrator.nodes.onhost import accounts, kept, owner, program, receiving, removal, tls
from orchestrator.nodes.onhost.work import Refused, Told, Work, alone, in_words

STEPS: dict[str, Callable[..., Told]] = {
    "system": kept.check_system,
    "claim": owner.claim,
    "hold": owner.hold,
    "user": accounts.have_user,
    "folders": accounts.have_folders,
    "look": program.look,
    "room": receiving.have_room,
    "receive": receiving.receive,
    "install": program.install,
    "link": program.link_own,
    "unit": kept.have_unit,
    "firewall": kept.have_firewall,
    "look tls": tls.look,
    "have tls": tls.have,
    "renew tls": tls.renew,
    "permit": removal.permit,
    "stop": removal.stop_instances,
    "drop kept": removal.drop_kept,
    "drop models": removal.drop_models,
    "drop user": removal.drop_user,
    "drop folders": removal.drop_folders,
}


def main(sent: dict[str, Any]) -> None:
    os.umask(0o022)
    work = Work(Path(sent["root"]), sent["is_dry"], _say)
    with ExitStack() as stack:
        try:
            if sent["is_alone"]:
                stack.enter_context(alone(work))
            for asked in sent["steps"]:
                _step(work, **asked)
        except Refused as error:
            _say({"error": str(error)})
        except OSError as error:
            _say({"error": in_words(error)})


def _step(work: Work, do: str, **asked: Any) -> None:
    work.more = {}
    is_changed, words = STEPS[do](work, **asked)
    _say({"is_changed": is_changed, "words": words, "more": work.more})


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
