"""Accelerators as metrics: what their drivers say of them, looked at again and again.

Hosts are watched anyway, second by second: their facts are taken as they are. This machine is looked at from here, by a
process of its own, as seldom as a scrape comes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from prometheus_client import Gauge

from orchestrator import telemetry
from orchestrator.core.model import Accelerator, NodeFacts
from orchestrator.fleet.inventory import take_inventory
from orchestrator.settings import NodeSettings

LOOK_EVERY_S: Final = 15.0
TELL_EVERY_S: Final = 5.0

_Series = tuple[Gauge, tuple[str, ...]]


class CardGauges:
    """`nodes`: those to be looked at from here; `seen`: what others look at, as they see it now."""

    def __init__(
        self,
        nodes: Callable[[], tuple[NodeSettings, ...]],
        seen: Callable[[], tuple[NodeFacts, ...]],
        models_dir: Path,
    ) -> None:
        self._nodes, self._seen, self._models_dir = nodes, seen, models_dir
        self._told: set[_Series] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            here = await take_inventory(self._nodes(), self._models_dir)
            at_s, until_s = time.time(), time.monotonic() + LOOK_EVERY_S
            while time.monotonic() < until_s:
                self.tell(here, at_s)
                await asyncio.sleep(TELL_EVERY_S)  # a clock's tick is what it waits for

    def tell(self, here: Sequence[NodeFacts], here_at_s: float) -> None:
        """Put what is known now into the metrics."""
        told = dict(_series(here, here_at_s)) | dict(_series(self._seen(), time.time()))
        for gauge, labels in self._told - told.keys():
            if gauge is not telemetry.CARD_SEEN:
                gauge.labels(*labels).set(math.nan)  # in multi-process mode no series can be taken back
        for (gauge, labels), value in told.items():
            gauge.labels(*labels).set(value)
        self._told |= told.keys()


def _series(facts: Iterable[NodeFacts], seen_at_s: float) -> Iterator[tuple[_Series, float]]:
    for node in facts:
        for card in node.accelerators:
            labels = (node.node, str(card.index), card.uuid, card.name, str(card.is_simulated).lower())
            values = {**_values(card), telemetry.CARD_SEEN: seen_at_s}
            yield from (((gauge, labels), value) for gauge, value in values.items() if value is not None)


def _values(card: Accelerator) -> dict[Gauge, float | None]:
    """None: its driver does not tell."""
    percent = card.utilisation_percent
    return {
        telemetry.CARD_VRAM_TOTAL: card.vram_total_bytes,
        telemetry.CARD_VRAM_USED: card.vram_used_bytes,
        telemetry.CARD_UTILISATION: None if percent is None else percent / 100,
        telemetry.CARD_TEMPERATURE: card.temperature_c,
        telemetry.CARD_POWER: card.power_w,
    }
