"""Ports for what a test starts, or for what is to be there for nobody."""

from __future__ import annotations

import random

from orchestrator.fleet import ports

_given: set[int] = set()
_rng = random.SystemRandom()


def free_port() -> int:
    """One that nobody has, and none that this run was given before.

    Nor is it one of those that outgoing connections get: what it is for may start seconds later.
    """
    port = ports.free_port(_given, _rng)
    _given.add(port)
    return port
