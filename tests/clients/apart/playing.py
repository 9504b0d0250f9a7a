"""Plays scenes as they are ordered: one JSON object a line in, one out. What libraries print goes to the log."""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

Scene = Callable[..., Any]


def play(scenes: Mapping[str, Scene]) -> None:
    """Until there are no more orders. Who ends it by SIGABRT is told where it was.

    Garbage is collected between scenes alone: a stream that a client left is closed by its collection, which takes
    httpcore's lock, and waits for ever where that happens while the same thread makes a lock within the locked part.
    """
    faulthandler.enable()
    gc.disable()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            told = {"result": scenes[order.pop("scene")](**order)}
        except Exception:  # noqa: BLE001  whatever it is, the test that ordered it tells it
            told = {"failed": traceback.format_exc()}
        gc.collect()
        answers.write(json.dumps(told) + "\n")
        answers.flush()
