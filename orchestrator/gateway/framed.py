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


class Framed:
    """One stream of `instance`, which was asked for `path`. `is_outside`: it is a provider, and all of it goes on."""

    __slots__ = ("_frames", "_instance")

    def __init__(self, instance: str, path: str, *, is_outside: bool = False) -> None:
        self._instance = instance
        self._frames = None
        if not is_outside:
            self._frames = Frames(_FORMS.setdefault(path, Forms()), is_events=not path.startswith(_OWN_PATHS))

    def before(self, sink: Sink) -> Sink:
        """Takes what comes, and hands on to `sink` what may be. Raises InstanceError where a frame is none."""
        frames = self._frames
        if frames is None:
            return sink
        feed = frames.feed

        def hand_on(pieces: list[bytes]) -> None:
            whole = feed(pieces)
            if whole:
                sink(whole)
            if frames.fault:
                raise InstanceError(self._instance, frames.fault)

        return hand_on

    def finish(self, sink: Sink) -> None:
        """The stream has ended. Raises InstanceError where it did so within a frame."""
        if self._frames is None:
            return
        if rest := self._frames.finish():
            sink(rest)
        if self._frames.fault:
            raise InstanceError(self._instance, self._frames.fault)
