"""What is kept of a stream goes with its call: nothing refers in a circle, so nothing waits for the collector."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from orchestrator.core.model import Endpoint
from orchestrator.gateway.kept import Kept
from orchestrator.gateway.shown import Shown


def test_once_an_instance_is_left_nothing_holds_what_was_shown() -> None:
    client: Any = SimpleNamespace(is_stalled=False, source=None, told=None)
    shown = Shown(client, Endpoint.OLLAMA_CHAT, "application/x-ndjson", Kept(1000), None, hides_usage=False, packs=True)
    before = sys.getrefcount(shown)
    exchange: Any = SimpleNamespace()
    shown.hear(exchange)
    assert sys.getrefcount(shown) > before
    shown.leave()
    assert sys.getrefcount(shown) == before
    assert client.source is None
