"""An instance's stream on its way to whoever takes it: whole frames go on, and one that is none ends the exchange.

What a frame is, and which garbling is found, is `core.dialects.framing`'s. A provider's stream is not looked at here:
each of its events is parsed where it is put into the caller's dialect.
"""

from __future__ import annotations

from typing import Final

from orchestrator.core.dialects.framing import Forms, Frames
from orchestrator.core.errors import InstanceError
from orchestrator.gateway.upstream import Sink

# Ollama's own paths answer in lines, all others in server-sent events.
_OWN_PATHS: Final = "/api/"
# By path, of which there are few: each API of each engine has its own.
_FORMS: Final[dict[str, Forms]] = {}


def _nobody(_: list[bytes]) -> None:
    """Nobody takes it yet."""


class Framed:
    """One stream of `instance`, which was asked for `path`. `is_outside`: it is a provider, and all of it goes on."""

    __slots__ = ("_frames", "_instance", "_sink")

    def __init__(self, instance: str, path: str, *, is_outside: bool = False) -> None:
        self._instance = instance
        self._sink: Sink = _nobody
        self._frames = None
        if not is_outside:
            self._frames = Frames(_FORMS.setdefault(path, Forms()), is_events=not path.startswith(_OWN_PATHS))

    def before(self, sink: Sink) -> Sink:
        """Takes what comes, and hands on to `sink` alone what may be. Raises InstanceError where a frame is none."""
        if self._frames is None:
            return sink
        self._sink = sink
        return self._hand_on

    def _hand_on(self, pieces: list[bytes]) -> None:
        frames = self._frames
        assert frames is not None, "what goes past whole is not handed on here"
        whole = frames.feed(pieces)
        if whole:
            self._sink(whole)
        if frames.fault:
            raise InstanceError(self._instance, frames.fault)

    def finish(self, sink: Sink) -> None:
        """The stream has ended. Raises InstanceError where it did so within a frame."""
        if self._frames is None:
            return
        if rest := self._frames.finish():
            sink(rest)
        if self._frames.fault:
            raise InstanceError(self._instance, self._frames.fault)
