"""The reply of a simulated model to a call: how many tokens, which of them are shown, and why it ends.

Words and JSON come from `words`; when each token is written is left to `runner`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.as_chat import as_chat
from orchestrator.core.dialects.checks import wanted_thinking
from orchestrator.core.dialects.llama_request import wanted_logprobs
from orchestrator.core.dialects.parse import sampling
from orchestrator.core.model import Call, Finish, ToolCall
from orchestrator.nodes.simulator.script import question, wanted_format
from orchestrator.nodes.simulator.tokens import ids, split
from orchestrator.nodes.simulator.words import JsonWriter, answer_length, random_for, sentence_tokens
from orchestrator.nodes.simulator.work import Piece, Reply

# Log probabilities of tokens, in answers that a model is sure of and in those that it is not.
CERTAIN: Final = -0.25
DOUBTFUL: Final = -2.5

_LOGPROBS: Final = ("logprobs", "top_logprobs")
_THINKING_TOKENS: Final = (8, 40)
_LIMIT_IS_LENGTH: Final = 1024
_ID_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


def compose(
    call: Call,
    marker: str,
    capabilities: Sequence[str],
    prompt: Sequence[str],
    kept: int,
    doubtful_share: float = 0.0,
) -> Reply:
    """The reply to `call`, whose prompt was cut to `kept` tokens. The same call has the same reply.

    `marker` begins whatever is said, also where the caller allows one token. `doubtful_share`: of so many questions the
    answer's tokens are unlikely ones, always of the same.
    """
    call = as_chat(call)
    # Who asks for log probabilities, too, is told the same answer.
    asked = question(replace(call, body={name: value for name, value in call.body.items() if name not in _LOGPROBS}))
    rng = random_for(asked)
    logprob = DOUBTFUL if random_for(f"doubt {asked}").random() < doubtful_share else CERTAIN
    wanted = wanted_format(call)
    thinks = "thinking" in capabilities and wanted_thinking(call) is not False
    thoughts = [marker, *sentence_tokens(rng, rng.randint(*_THINKING_TOKENS))] if thinks else []
    calls: tuple[ToolCall, ...] = ()
    if wanted is None:
        said = [marker, *sentence_tokens(rng, _wanted_length(call) or answer_length(rng))]
    else:
        value = JsonWriter(wanted if isinstance(wanted, Mapping) else _FREE_JSON, rng, marker).value()
        said, calls = _json_tokens(value, marker), _tool_calls(call, value, rng)
    pieces = [*(Piece(thinking=token) for token in thoughts), *_pieces(said, calls)]
    return _cut(call, pieces, prompt, kept, logprob)


def _wanted_length(call: Call) -> int | None:
    """A small limit is also the length: who names one (a trace, a benchmark) mostly wants so much work done."""
    limit = int(sampling(call).get("num_predict") or 0)
    return limit if 0 < limit <= _LIMIT_IS_LENGTH else None


_FREE_JSON: Final = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}


def _pieces(said: Sequence[str], calls: tuple[ToolCall, ...]) -> Iterator[Piece]:
    """A tool call is shown at once, when its last token is written."""
    if calls:
        yield Piece(tool_calls=calls, tokens=len(said))
    else:
        yield from (Piece(text=token) for token in said)


def _json_tokens(value: Any, marker: str) -> list[str]:
    """The tokens of `value` as JSON; the marker within it is one."""
    head, found, tail = gojson.dumps(value).decode().partition(marker)
    return [*split(head), *([found] if found else []), *split(tail)]


def _tool_calls(call: Call, value: Any, rng: random.Random) -> tuple[ToolCall, ...]:
    """What Ollama takes for a tool call: an object with a tool's name and parameters, from a model given tools."""
    tools = call.body.get("tools") or ()
    names = {(tool.get("function") or {}).get("name") for tool in tools if isinstance(tool, Mapping)}
    if not isinstance(value, dict) or value.get("name") not in names:
        return ()
    arguments = value.get("parameters", value.get("arguments"))
    if not isinstance(arguments, dict):
        return ()
    letters = "".join(rng.choice(_ID_LETTERS) for _ in range(8))
    return (ToolCall(f"call_{letters}", value["name"], arguments),)


def _cut(call: Call, pieces: list[Piece], prompt: Sequence[str], kept: int, logprob: float) -> Reply:
    """Stop where the caller's stop texts or its number of tokens say."""
    options = sampling(call)
    shown, tail, finish = _stopped(pieces, options.get("stop") or ())
    limit = int(options.get("num_predict") or 0)
    is_limited = 0 < limit < sum(piece.tokens for piece in shown) + tail
    if is_limited:
        shown, tail = _first_tokens(shown, limit)
        finish = Finish.LENGTH
    logprobs = wanted_logprobs(call)
    if logprobs is not None:
        shown = [_with_logprobs(piece, logprob, logprobs) for piece in shown]
    context: tuple[int, ...] = ()
    if not call.endpoint.is_chat and not call.body.get("raw"):
        given = call.body.get("context") or ()
        context = (*given, *ids(prompt[len(given) : kept]), *ids([piece.text for piece in shown]))
    return Reply(tuple(shown), str(finish), kept, tail, context)


def _first_tokens(pieces: Sequence[Piece], limit: int) -> tuple[list[Piece], int]:
    """The pieces whole within `limit` tokens, and how many tokens were written for the one that is not."""
    shown: list[Piece] = []
    left = limit
    for piece in pieces:
        if piece.tokens > left:
            break
        shown.append(piece)
        left -= piece.tokens
    return shown, left


def _stopped(pieces: list[Piece], stops: Sequence[str]) -> tuple[list[Piece], int, Finish]:
    """The pieces before the first stop text. The marker, the first of the text, is shown whatever the stops are."""
    finish = Finish.TOOL_CALLS if pieces and pieces[-1].tool_calls else Finish.STOP
    said = ""
    is_marked = False
    for n, piece in enumerate(pieces):
        if not piece.text:
            continue
        if not is_marked:
            is_marked = True
            continue
        said += piece.text
        at = min((found for stop in stops if stop and (found := said.find(stop)) >= 0), default=-1)
        if at >= 0:
            return _before(pieces[: n + 1], len(said) - at), 1, finish
    return pieces, 1, finish  # the end-of-text token is written too, and counted


def _before(pieces: list[Piece], chars: int) -> list[Piece]:
    """`pieces` without their last `chars` characters."""
    shown = list(pieces)
    while chars > 0:
        last = shown.pop()
        if len(last.text) > chars:
            shown.append(replace(last, text=last.text[:-chars]))
        chars -= len(last.text)
    return shown


def _with_logprobs(piece: Piece, logprob: float, alternatives: int) -> Piece:
    """A token so likely, and `alternatives` in all beside it that are less so."""
    text = piece.text or piece.thinking
    entry: dict[str, object] = {"token": text, "logprob": logprob, "bytes": list(text.encode())}
    if alternatives:
        others = [
            {"token": f" {n}", "logprob": logprob - 1.75 - n, "bytes": list(f" {n}".encode())}
            for n in range(1, alternatives)
        ]
        entry["top_logprobs"] = [dict(entry), *others]
    return replace(piece, logprobs=(entry,)) if text else piece
