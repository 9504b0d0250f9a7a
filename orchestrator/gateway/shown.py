"""What a client is shown of a streamed answer, and what is kept of it; also where it comes from two instances in turn.

Knows no instance but the exchange that is read from at this moment. Whether a stream that broke goes on at another
instance is `asking`'s.
"""

from __future__ import annotations

from typing import Final

from orchestrator.core.dialects.errors import error_frame
from orchestrator.core.dialects.frames import SSE_TYPE
from orchestrator.core.errors import InstanceError
from orchestrator.core.model import Dialect, Endpoint
from orchestrator.gateway.client_stream import ClientStream
from orchestrator.gateway.hidden_usage import UsageHider
from orchestrator.gateway.kept import Kept
from orchestrator.gateway.making import Making
from orchestrator.gateway.upstream import Exchange

# What an error begins with that an engine tells within a stream; one, since it is looked for in each read.
_ERRORS: Final = {
    Dialect.OLLAMA: b'{"error":',
    Dialect.OPENAI: b'data: {"error":',
    Dialect.ANTHROPIC: b"event: error\n",
}


class Shown:
    """The pieces of a stream on their way to the client, and what is kept of them.

    `packs`: it may be continued where it breaks, so an error of the engine's is held back, and nothing is dropped.
    """

    __slots__ = ("_client", "_endpoint", "_error", "_exchange", "_hider", "_is_events", "_making", "held", "kept")

    def __init__(
        self,
        client: ClientStream,
        endpoint: Endpoint,
        content_type: str,
        kept: Kept,
        making: Making | None,
        *,
        hides_usage: bool,
        packs: bool,
    ) -> None:
        self._exchange: Exchange | None = None
        self._client, self._endpoint, self._is_events = client, endpoint, content_type == SSE_TYPE
        self._making = making
        self._error = _ERRORS[endpoint.dialect] if packs else b""
        self._hider = UsageHider() if hides_usage else None
        self.kept = kept
        self.held = b""  # the engine's own word of why it broke off, which the client has not seen
        client.told = kept

    def hear(self, exchange: Exchange) -> None:
        """It comes from here from now on."""
        self._exchange, self.held = exchange, b""
        self._client.source = self
        if self._client.is_stalled:
            self.pause()

    def show(self, pieces: list[bytes]) -> None:
        if self._error and (self.held or pieces[-1].startswith(self._error)):
            pieces = self._hold(pieces)
        self.kept.add(pieces)
        making = self._making
        if making is not None and making.is_heard:
            making.came(pieces)
        if self._hider is not None:
            pieces = [self._hider.feed(each) for each in pieces]
        self._client.write(pieces)

    def _hold(self, pieces: list[bytes]) -> list[bytes]:
        """Keep an error, and whatever comes behind it, from the client."""
        told, held = (pieces[:-1], pieces[-1:]) if not self.held else ([], pieces)
        self.held += b"".join(held)
        return [*told, b""]

    def fail(self, text: str) -> None:
        """An error frame in the caller's dialect behind a broken stream, not glued to half a frame of the engine's."""
        frame = self.held or error_frame(self._endpoint, text)
        if self._hider is None:
            frame = self.kept.gap(is_events=self._is_events) + frame
        self._hider = None  # whose client has only seen whole events, and has no use for half a one
        self._client.write([frame])

    def leave(self) -> None:
        """The connection to the instance may serve another client from now on."""
        self._exchange = None
        self._client.source = None  # a cycle would keep all that was told for a while

    def end(self) -> None:
        """All of it has come."""
        if self._hider is not None:
            self._client.write([self._hider.finish()])
            self._hider = None

    def so_far(self) -> bytes | None:
        return self.kept.body()

    def hurry(self) -> None:
        self.resume()

    @property
    def is_held_up(self) -> bool:
        """The client reads nothing, and nobody else does: the instance is not read from."""
        return self._client.is_stalled and not (self._making is not None and self._making.followers)

    def pause(self) -> None:
        """Its client reads nothing."""
        # While others wait for it, too, what a slow client has not read yet is held for it.
        if self._exchange is not None and not (self._making is not None and self._making.followers):
            self._exchange.pause()

    def resume(self) -> None:
        """Its client reads on."""
        if self._exchange is not None:
            self._exchange.resume()


class CutShort(InstanceError):
    """A stream that may be continued broke; the client was shown `shown` and no error yet.

    `told`: what the client is to hear if it is not continued; empty: it has heard it. `outcome`: how the call then
    counts.
    """

    def __init__(self, why: InstanceError, shown: Shown, told: str, outcome: str = "failed") -> None:
        super().__init__(why.instance, why.said, answered=True, is_hung=why.is_hung, quoted=why.quoted)
        self.shown, self.told, self.outcome = shown, told, outcome
