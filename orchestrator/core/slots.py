"""How many calls a server works on at once, told from how answers come that were asked for together.

Ollama tells nobody its OLLAMA_NUM_PARALLEL. But those that it works on at once begin together, and the next one begins
when one of them has ended (OLLAMA.md 1.1: its queue is first come, first served). So the number is that of the answers
that have begun well before the first has ended. Whatever disturbs this makes it smaller, which costs speed alone: a
call beyond the true number would wait where nobody sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

# Tokens of each answer: many times what reading its few words of prompt takes.
ANSWER_TOKENS: Final = 64
# An answer that ended by itself so soon tells nothing: what came after it may have been on its way all the same.
FEWEST_TOKENS: Final = 16
# Asked for at once: twice as many each time, until some had to wait.
FIRST_ASKED: Final = 2
MOST_ASKED: Final = 16


class Told(NamedTuple):
    """When an answer's first token came and when it ended, in seconds of one clock, and how many tokens it had."""

    first_s: float
    end_s: float
    tokens: int


def worked_on_at_once(answers: Sequence[Told]) -> int | None:
    """How many of these, asked for together, the server worked on at once; None: that cannot be told from them."""
    earliest = min(answers, key=lambda each: each.end_s)
    if earliest.tokens < FEWEST_TOKENS:
        return None
    begun_s = min(each.first_s for each in answers)
    # Half-way, and not at the end: who reads late could take the next one's beginning for earlier than that end.
    half_s = (begun_s + earliest.end_s) / 2
    return sum(each.first_s <= half_s for each in answers)
