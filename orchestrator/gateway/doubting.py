"""An answer judged on its way: its first tokens held back until they were, and all of it at its end.

Knows no instance and no tier: pieces in the caller's dialect in, those that may be shown out. An answer of which
nothing was shown and that is doubted ends as `Escalated`; what is doubted later is said in its last frame, and takes
nothing back. What is doubted, and when, is decided in `core.escalation`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from orchestrator import telemetry
from orchestrator.core.answer_form import wanted_form
from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.outcome import Hearing, read_answer
from orchestrator.core.escalation import Doubt, Said, Verdict, Watch, judge_beginning, judge_whole, too_late
from orchestrator.core.model import Answer, Call, Dialect
from orchestrator.gateway.hidden_logprobs import without_logprobs

__all__ = ["Escalated", "Watch", "Watching"]

Outcome = TypeVar("Outcome")

# A buffered answer beyond this is shown as it comes: it would be kept in memory for as long as it takes.
HELD_BYTES_AT_MOST: Final = 8 * 2**20


class Escalated(Exception):
    """No error: the answer is not good enough, and nothing of it was shown. A higher tier may answer.

    `tokens`: of prompt and answer, as far as they were made; where the engine had not counted yet, the prompt's are
    estimated. `answer`: what was said, where it was whole: better than nothing if nobody else can answer. `is_over`:
    the instance has said all of it.
    """

    def __init__(
        self, doubt: Doubt, tokens: tuple[int, int], answer: Answer | None = None, *, is_over: bool = False
    ) -> None:
        super().__init__(doubt.why)
        self.doubt, self.tokens, self.answer, self.is_over = doubt, tokens, answer, is_over

    @property
    def reason(self) -> str:
        """In the words of the settings, for counts and headers."""
        return str(self.doubt.reason)

    @property
    def confidence(self) -> float | None:
        return self.doubt.confidence


async def in_time(watching: Watching, relaying: Awaitable[Outcome]) -> Outcome:
    """What comes of asking an instance. Raises Escalated where its first byte does not come within the route's time."""
    try:
        async with asyncio.timeout(watching.watch.conditions.timeout_s) as watching.limit:
            return await relaying
    except TimeoutError as why:
        if watching.has_timed_out:
            raise watching.timed_out() from why
        raise


def _nobody_listens(_: float) -> None:
    """What was held back is counted by nobody."""


class Watching:
    """One answer of one instance. Holds back what it was not asked about yet; `is_holding` until then.

    `strips`: the log probabilities in it were asked for by us. `prompt_tokens`: a guess, until the engine has counted.
    """

    def __init__(self, watch: Watch, call: Call, prompt_tokens: int = 0) -> None:
        self.watch, self._call, self._prompt_tokens = watch, call, prompt_tokens
        self.strips = False
        self.hears_apart = False  # log probabilities come by `hear`, whatever stands in the pieces
        self.is_holding = call.is_stream and watch.conditions.judges_answers
        self.doubt: Doubt | None = None  # of an answer of which nothing was shown
        self.late: Doubt | None = None  # of one that was
        self.limit: asyncio.Timeout | None = None  # until the first token
        self.on_held: Callable[[float], None] = _nobody_listens  # told for how many seconds it was held back
        self._hearing = Hearing(call.endpoint)
        self._heard: list[float] = []
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._rest = b""
        self._end = b"\n" if call.endpoint.dialect is Dialect.OLLAMA else b"\n\n"
        self._is_unjudged = True

    # --- what comes ---------------------------------------------------------------------------------------------------

    def began(self) -> None:
        """Its first bytes have come."""
        if self.limit is not None and not self.limit.expired():
            self.limit.reschedule(None)

    @property
    def needs_logprobs(self) -> bool:
        return self.watch.conditions.confidence_below is not None

    def hear(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Log probabilities of the next tokens, from who translates the answer."""
        self._heard += [float(each["logprob"]) for each in entries if "logprob" in each]

    def feed(self, pieces: list[bytes]) -> list[bytes]:
        """The next pieces of a stream; those that may be shown, in the form the caller asked for."""
        shown = [out for piece in pieces if (out := self._piece(piece))]
        if not self.is_holding:
            return shown
        self._held += shown
        self._held_bytes += sum(map(len, shown))
        return self.let_go() if self._may_go() else []

    def rest(self) -> list[bytes]:
        """The stream is over: its last frame, where that one's end alone is missing; as of `feed`."""
        rest, self._rest = self._rest, b""
        return self.feed([rest + self._end]) if rest else []

    def let_go(self) -> list[bytes]:
        """What was held back: from now on, what comes is shown."""
        held, self._held, self.is_holding = self._held, [], False
        return held

    def body(self, data: bytes) -> bytes:
        """A whole body, judged; `doubt` is there afterwards."""
        self._hearing.body(data)
        self.doubt = self._judged(judge_whole(self.watch, self._said(), wanted_form(self._call)), "whole")
        return without_logprobs(data) if self.strips else data

    # --- what was doubted ---------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Its last frame has come."""
        return self._hearing.is_over

    @property
    def tokens(self) -> tuple[int, int]:
        """Of prompt and answer: as the engine counted them, or as they were seen."""
        if any(self._hearing.counts):
            return self._hearing.counts
        return self._prompt_tokens, self._token_count

    def escalated(self, body: bytes | None = None) -> Escalated:
        """How it ends: `doubt` is there."""
        assert self.doubt is not None, "what is not doubted is shown"
        answer = None
        if self.is_over:
            said = b"".join(self._held) if body is None else body
            answer = read_answer(self._call.endpoint, self._call.is_stream, said)
        return Escalated(self.doubt, self.tokens, answer, is_over=self.is_over)

    @property
    def has_timed_out(self) -> bool:
        return self.limit is not None and self.limit.expired()

    def timed_out(self) -> Escalated:
        """No token came within the time of the route; the prompt was read, or was about to be."""
        return Escalated(too_late(self.watch.conditions.timeout_s or 0.0), self.tokens)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _piece(self, piece: bytes) -> bytes:
        """The whole frames of a piece; one that is cut waits for its rest."""
        data = self._rest + piece if self._rest else piece
        end = data.rfind(self._end) + len(self._end)
        if end < len(self._end):
            end = 0
        self._rest, data = data[end:], data[:end]
        return b"".join([self._frame(frame + self._end) for frame in data.split(self._end)[:-1]])

    def _frame(self, frame: bytes) -> bytes:
        tells = self._hearing.frame(frame)
        if self.strips:
            bare = without_logprobs(frame)
            if not tells and bare is not frame and self._call.endpoint.dialect is Dialect.OLLAMA:
                return b""  # told for its log probabilities alone
            frame = bare
        if self._hearing.is_over and self._is_unjudged:
            return self._judge_end(frame)
        return frame

    def _judge_end(self, frame: bytes) -> bytes:
        """Its last frame; where all before it was shown, with what is doubted now."""
        self._is_unjudged = False
        doubt = self._judged(judge_whole(self.watch, self._said(), wanted_form(self._call)), "whole")
        if self.is_holding:
            self.doubt = doubt
            return frame
        self.late = doubt
        return frame if doubt is None else self._with_trailer(frame, doubt)

    def _may_go(self) -> bool:
        if self.doubt is not None:
            return False
        if self.is_over:
            return True
        if self.watch.is_buffered:
            return self._held_bytes > HELD_BYTES_AT_MOST
        if self._token_count < self.watch.hold_tokens or self._awaits_tools:
            return False
        self.doubt = self._judged(judge_beginning(self.watch, self._said()), "early")
        return self.doubt is None

    @property
    def _awaits_tools(self) -> bool:
        """Calls of tools come at an answer's end, one by one: how many there are is known then."""
        return self.watch.conditions.tools_needed is not None and self._hearing.tool_calls > 0

    @property
    def _logprobs(self) -> list[float]:
        return self._heard if self.hears_apart else self._hearing.logprobs

    @property
    def _token_count(self) -> int:
        return len(self._logprobs) or self._hearing.pieces

    def _said(self) -> Said:
        hearing = self._hearing
        return Said(hearing.text, self._logprobs, hearing.tool_calls, hearing.finish)

    def _judged(self, verdict: Verdict, when: str) -> Doubt | None:
        route = self.watch.route
        if verdict.confidence is not None:
            telemetry.CONFIDENCE.labels(route, when).observe(verdict.confidence)
        elif self.watch.conditions.confidence_below is not None and when == "whole":
            telemetry.TALLY.count(telemetry.UNJUDGED, (route,))
        return verdict.doubt

    def _with_trailer(self, frame: bytes, doubt: Doubt) -> bytes:
        """A field that clients of Ollama do not know and pass over; for those of events, a comment."""
        if self._call.endpoint.dialect is Dialect.OLLAMA:
            told: dict[str, object] = {"reason": str(doubt.reason), "why": doubt.why}
            told |= {} if doubt.confidence is None else {"confidence": round(doubt.confidence, 3)}
            return frame.rstrip()[:-1] + b',"doubt":' + gojson.dumps(told) + b"}" + self._end
        sure = "" if doubt.confidence is None else f" confidence={doubt.confidence:.3f}"
        return f": doubt reason={doubt.reason}{sure}\n\n".encode() + frame
