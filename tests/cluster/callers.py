"""Callers of a cluster while something happens to it: whatever fails, they know."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from running import Up, until


class Callers:
    """Two who ask one question after another, each on a connection of its own, and never ask again what failed."""

    def __init__(self, up: Up) -> None:
        self._up = up
        self._stop = threading.Event()
        self.answered = 0
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(2)]

    def _ask(self, caller: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                told = self._up.chat(f"Caller {caller} has question {number}.", tokens=3)
                if told.status_code == 200 and told.json()["done"] is True:
                    self.answered += 1
                else:
                    self.failed.append(f"{told.status_code}: {told.text}")
            except httpx.TransportError as why:
                self.failed.append(repr(why))

    @contextmanager
    def asking(self) -> Iterator[None]:
        for each in self._threads:
            each.start()
        try:
            until(lambda: self.answered >= 2, "they are answered")
            yield
            answered = self.answered
            until(lambda: self.answered >= answered + 4, "they are answered again")
        finally:
            self._stop.set()
            for each in self._threads:
                each.join()
