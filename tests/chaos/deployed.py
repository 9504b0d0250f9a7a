"""Instances that a cluster deploys itself keep a journal, too: where a simulator begins, the one of trials does.

The program that starts them is the product's own and knows nothing of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.chaos.parts import ROOT

Events = list[dict[str, Any]]

_IN_ITS_PLACE = """import os, sys
if "orchestrator.nodes.simulator" in sys.orig_argv:
    config = sys.orig_argv[sys.orig_argv.index("--config") + 1]
    journal = os.path.join({journals!r}, config.strip("/").replace("/", "-") + ".journal")
    os.execv(sys.executable, [sys.executable, "-m", "tests.chaos.engine", config, journal])
"""


class Deployed:
    """The instances of one side that deploys some."""

    def __init__(self, folder: Path) -> None:
        self._journals, self._site = folder / "journals", folder / "in-its-place"

    def before(self, argv: list[str]) -> list[str]:
        """The command of a side whose simulated instances keep journals."""
        for each in (self._journals, self._site):
            each.mkdir(exist_ok=True)
        (self._site / "sitecustomize.py").write_text(_IN_ITS_PLACE.format(journals=str(self._journals)))
        return ["env", f"PYTHONPATH={self._site}:{ROOT}", *argv]

    def journals(self) -> dict[str, Events]:
        """By instance, over all its lives."""
        return {
            each.stem: [json.loads(line) for line in each.read_text().splitlines()]
            for each in self._journals.glob("*.journal")
        }


def lives(journals: Mapping[str, Iterable[Mapping[str, Any]]]) -> tuple[dict[str, Events], dict[str, int]]:
    """Each process of an instance by itself: its events, and how many slots it has, which another one need not have."""
    events: dict[str, Events] = {}
    slots: dict[str, int] = {}
    for instance, told in journals.items():
        life = 0
        for each in told:
            life += each["event"] == "began"
            name = f"{instance}, process {life}"
            if each["event"] == "began":
                slots[name] = each["slots"]
            events.setdefault(name, []).append(dict(each))
    return events, slots
