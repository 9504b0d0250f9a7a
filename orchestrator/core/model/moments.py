"""What happened to the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Moment(StrEnum):
    """What kind of thing happened to the fleet."""

    STARTED = "started"  # an instance's process was begun
    SERVING = "serving"
    RESTARTED = "restarted"  # its process ended, and is begun again
    DOWN = "down"
    SEEN_TO = "seen-to"  # it answered nobody: it is asked, unloaded, restarted or left alone
    DRAINED = "drained"  # it gets nothing new, and finishes what it has
    STOPPED = "stopped"
    MOVED = "moved"  # another stands in its place, elsewhere
    RESIZED = "resized"  # a pool followed its load
    CARD_LOST = "card-lost"
    CARD_BACK = "card-back"
    HOST_LOST = "host-lost"
    HOST_BACK = "host-back"
    VRAM_TAKEN = "vram-taken"  # by somebody else
    VRAM_BACK = "vram-back"
    DEPLOYMENT_BEGAN = "deployment-began"
    DEPLOYMENT_FINISHED = "deployment-finished"  # every instance of it serves
    DEPLOYMENT_FAILED = "deployment-failed"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, in one sentence for people. What it is not about stays empty."""

    at_unix_ms: int
    kind: Moment
    text: str
    node: str = ""
    instance: str = ""
    deployment: int = 0
