"""Text as a simulated model counts it: pieces the size of tokens, a chat's template around them, ids, prefixes.

No tokenizer is needed to count about right: English comes out at some 1.3 tokens a word here as in real ones.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Final

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.parse import turns
from orchestrator.core.model import Call
from orchestrator.nodes.simulator.runner import PREFIX_BLOCK_TOKENS

_TOKEN: Final = re.compile(r"\s?[^\W\d_]{1,8}|\s?\d{1,3}|\s?[^\w\s]|\s+|_")
# A marker, or a word with the space before it, is one.
_SAID: Final = re.compile(r"\[simulated [^\]]*\] |\s?\w+|\s?[^\w\s]|\s+")
# ChatML, as recorded: 15 tokens for a question of 6, 23 with a system text of 3 more.
_TOKENS_A_TURN: Final = 5
_TOKENS_FOR_THE_ANSWER: Final = 4
_VOCABULARY: Final = 49_000


def split(text: str) -> list[str]:
    """`text` in token-sized pieces; joined they are `text` again."""
    return _TOKEN.findall(text)


def prompt_tokens(call: Call, begun: str | None = None) -> list[str]:
    """The call's prompt after its template, in tokens. The template's own are empty: only their number matters.

    `begun`: the answer's beginning, which stands behind it.
    """
    told: list[str] = []
    is_raw = bool(call.body.get("raw")) or call.endpoint.is_embedding
    if call.body.get("tools"):
        told += split(gojson.dumps(call.body["tools"]).decode())
    for turn in turns(call):
        told += split(turn.text) if is_raw else [f"<{turn.role}>", *[""] * (_TOKENS_A_TURN - 1), *split(turn.text)]
    told += [] if is_raw else [""] * _TOKENS_FOR_THE_ANSWER
    told += said_tokens(begun or "")
    return [*("" for _ in call.body.get("context") or ()), *told]


def said_tokens(text: str) -> list[str]:
    """What a simulated model said, in the pieces in which it did."""
    return _SAID.findall(text)


def prefix_hashes(tokens: Sequence[str]) -> tuple[int, ...]:
    """One hash for each whole block of tokens, over it and all before it: equal hashes are an equal beginning."""
    hashes: list[int] = []
    last = 0
    for start in range(0, len(tokens) - PREFIX_BLOCK_TOKENS + 1, PREFIX_BLOCK_TOKENS):
        last = hash((last, tuple(tokens[start : start + PREFIX_BLOCK_TOKENS])))
        hashes.append(last)
    return tuple(hashes)


def ids(tokens: Sequence[str]) -> tuple[int, ...]:
    """A number for each token, the same every time: what /api/generate calls the context."""
    return tuple(3 + zlib.crc32(token.encode()) % _VOCABULARY for token in tokens)
