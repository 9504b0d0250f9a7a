"""One call to a simulated Ollama, top to bottom: read, refuse, load, answer.

The words of every refusal are Ollama's; those that depend on the request alone are found by `core.dialects`, those of
its llama-server (pictures, prompts too long, embeddings) here.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from orchestrator.core.dialects import gojson
from orchestrator.core.dialects.checks import check_for_model
from orchestrator.core.dialects.errors import caller_error, caller_error_response, error_frame, error_response
from orchestrator.core.dialects.frames import (
    Head,
    Stats,
    body_type,
    content_frame,
    head_of,
    stream_headers,
    stream_type,
)
from orchestrator.core.dialects.parse import (
    embedding_inputs,
    is_load_request,
    is_unload_request,
    keep_alive_s,
    parse_call,
    turns,
    unknown_model,
)
from orchestrator.core.dialects.render import render_load
from orchestrator.core.dialects.streams import Stream, answer_body, open_stream
from orchestrator.core.dialects.vectors import embeddings_body
from orchestrator.core.errors import CallerError, CapacityError
from orchestrator.core.model import Answer, Call, Dialect, Endpoint
from orchestrator.core.physics import prompt_tokens_kept
from orchestrator.nodes.simulator.answers import compose
from orchestrator.nodes.simulator.begun import Begun, begun_in, go_on
from orchestrator.nodes.simulator.config import SimulatedModel, SimulatorConfig
from orchestrator.nodes.simulator.http import GoStream, Routes, respond
from orchestrator.nodes.simulator.listing import Listing
from orchestrator.nodes.simulator.residence import LoadFailedError, Residence
from orchestrator.nodes.simulator.runner import RUNNER_DIED, Runner, RunnerDiedError
from orchestrator.nodes.simulator.script import Script, question
from orchestrator.nodes.simulator.tokens import prefix_hashes, prompt_tokens, split
from orchestrator.nodes.simulator.vectors import as_float32, vector_of
from orchestrator.nodes.simulator.work import Piece, Reply, Work

_NO_SHIFT: Final = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "
    "adjust the context length in settings, or use a model with a longer context length"
)
_NO_EMBEDDINGS: Final = "This server does not support embeddings. Start it with `--embeddings`"
# A model that says one token more often than this in a row is cut off, and its stream has no last line.
_REPEATS_AT_MOST: Final = 30
_OWN_WORK_NS: Final = 1_000_000  # Ollama's own part of a request: "load_duration" of a loaded model is about this


class AnswerFailedError(Exception):
    """The runner could not answer; its text is Ollama's."""


class Calls:
    """The inference paths of one instance."""

    def __init__(self, config: SimulatorConfig, listing: Listing, residence: Residence) -> None:
        self._config, self._listing, self._residence = config, listing, residence
        self._script = Script(config.script)
        self._goes_on = asyncio.Event()
        self._goes_on.set()

    def hang(self) -> None:
        """Take calls and answer none, until told so again; whoever asks after its health is answered as ever."""
        if self._goes_on.is_set():
            self._goes_on.clear()
        else:
            self._goes_on.set()

    def routes(self) -> Routes:
        """Every inference path of Ollama, which counts no tokens for Anthropic's clients."""
        return {each.value: {"POST": self.serve} for each in Endpoint if each is not Endpoint.ANTHROPIC_COUNT}

    async def serve(self, request: web.Request) -> web.StreamResponse:
        endpoint = Endpoint(request.path)
        headers: tuple[tuple[str, str], ...] = ()
        try:
            call = parse_call(endpoint, await request.read())
            await self._goes_on.wait()
            # Those of a stream stay where an error takes its place.
            headers = stream_headers(endpoint) if call.is_stream else ()
            model = self._listing.find(call.model)
            if model is None:
                raise unknown_model(endpoint, call.model)
            return await self._serve_call(request, call, model)
        except CallerError as why:
            told = caller_error_response(endpoint.dialect, why, _request_id())
            return await respond(request, why.status, *told, headers)
        except (CapacityError, LoadFailedError, RunnerDiedError, AnswerFailedError) as why:
            status, message = (why.status, why.message) if isinstance(why, CapacityError) else (500, str(why))
            told = error_response(endpoint.dialect, status, message, request_id=_request_id())
            return await respond(request, status, *told, headers)

    async def _serve_call(self, request: web.Request, call: Call, model: SimulatedModel) -> web.StreamResponse:
        is_load = call.endpoint.dialect is Dialect.OLLAMA and is_load_request(call)
        if is_unload_request(call):
            self._residence.unload(model)
            return await respond(request, 200, *render_load(call, call.model, _now(), is_unload=True))
        check_for_model(call, model.capabilities)
        async with self._residence.use(model, _wanted_context(call), _wanted_keep_alive(call)) as (runner, load_s):
            if is_load:
                return await respond(request, 200, *render_load(call, call.model, _now()))
            if self._config.answer_error:
                raise AnswerFailedError(self._config.answer_error)
            if call.endpoint.is_embedding:
                return await self._embed(request, call, model, runner, load_s)
            _refuse_pictures(call, model)
            return await self._answer(request, call, model, runner, load_s)

    async def _answer(
        self, request: web.Request, call: Call, model: SimulatedModel, runner: Runner, load_s: float
    ) -> web.StreamResponse:
        begun = begun_in(call)
        prompt = prompt_tokens(call) if begun is None else prompt_tokens(begun.call, begun.text)
        kept = _fitted(call, len(prompt), runner.context)
        reply = self._reply(call, begun, model, prompt, kept)
        work = runner.new_work(reply, prefix_hashes(prompt[:kept]), is_stream=call.is_stream)
        if call.is_stream:
            return await _stream(request, call, runner, work, load_s)
        async with aclosing(runner.pieces(work)) as pieces:
            told = [piece async for piece in pieces]
        made_at = _now()
        body = answer_body(
            head_of(call, call.model, made_at),
            made_at,
            _whole(told, reply),
            reply.finish,
            _stats(work, load_s),
            context=reply.context,
            logprobs=[entry for piece in told for entry in piece.logprobs],
        )
        return await respond(request, 200, body_type(call.endpoint), body)

    def _reply(self, call: Call, begun: Begun | None, model: SimulatedModel, prompt: Sequence[str], kept: int) -> Reply:
        if self._config.answers_nothing:
            return Reply((), "stop", len(prompt))

        def reply_to(asked: Call) -> Reply:
            if (scripted := self._script.reply(question(asked))) is not None:
                return scripted
            return compose(asked, self._config.marker, model.capabilities, prompt, kept, self._config.doubtful_share)

        rest = None if begun is None else go_on(begun, reply_to)
        if rest is not None:
            return replace(rest, prompt_tokens=kept)
        return reply_to(call)

    async def _embed(
        self, request: web.Request, call: Call, model: SimulatedModel, runner: Runner, load_s: float
    ) -> web.StreamResponse:
        if "embedding" not in model.capabilities:
            raise caller_error(500 if call.endpoint is Endpoint.OLLAMA_EMBEDDINGS else 501, _NO_EMBEDDINGS)
        texts = [split(text) for text in embedding_inputs(call)]
        if call.body.get("truncate") is False and any(len(text) > runner.context for text in texts):
            raise caller_error(400, "the input length exceeds the context length")
        tokens = [token for text in texts for token in text[: runner.context]]
        vectors, count = self._script.vectors(question(call)) or (self._vectors(call, model), len(tokens))
        work = runner.new_work(Reply((), "stop", count), prefix_hashes(()))
        async with aclosing(runner.pieces(work)) as pieces:
            async for _ in pieces:
                raise AssertionError("an embedding has no pieces")
        stats = _stats(work, load_s)
        said = () if self._config.answers_nothing else vectors
        return await respond(request, 200, *embeddings_body(call, call.model, said, stats))

    def _vectors(self, call: Call, model: SimulatedModel) -> Sequence[tuple[float, ...]]:
        length, wanted = model.shape.embedding_length, call.body.get("dimensions")
        vectors = [vector_of(text, length, wanted) for text in embedding_inputs(call)]
        return [*map(as_float32, vectors)] if call.endpoint is Endpoint.OLLAMA_EMBEDDINGS else vectors


async def _stream(request: web.Request, call: Call, runner: Runner, work: Work, load_s: float) -> web.StreamResponse:
    stream = GoStream(request, stream_type(call.endpoint), stream_headers(call.endpoint))
    head = head_of(call, call.model, _now())
    frames = open_stream(head)
    try:
        last, repeats = "", 0
        async with aclosing(runner.pieces(work)) as pieces:
            async for piece in pieces:
                said = (piece.text or piece.thinking).strip()
                last, repeats = said, repeats + 1 if said == last else 0
                if repeats > _REPEATS_AT_MOST:
                    break
                await _send(stream, _frames_of(piece, frames))
            else:
                await _send(stream, _end_of(work, frames, load_s))
    except RunnerDiedError:
        if not stream.prepared:
            raise
        await _send(stream, _broken_off(head))
    await stream.write_eof()
    return stream


async def _send(stream: GoStream, frames: Sequence[bytes]) -> None:
    for frame in frames:
        await stream.send(frame)


def _frames_of(piece: Piece, frames: Stream) -> list[bytes]:
    return frames.content(
        _now(), text=piece.text, thinking=piece.thinking, tool_calls=piece.tool_calls, logprobs=piece.logprobs
    )


def _end_of(work: Work, frames: Stream, load_s: float) -> list[bytes]:
    return frames.end(_now(), work.reply.finish, _stats(work, load_s), work.reply.context)


def _broken_off(head: Head) -> list[bytes]:
    """The last that Ollama sends of an answer whose runner died: on OpenAI's older paths a frame without a model."""
    if head.endpoint.dialect is Dialect.OLLAMA:
        return [error_frame(head.endpoint, RUNNER_DIED)]
    is_older = head.endpoint in (Endpoint.OPENAI_CHAT, Endpoint.OPENAI_COMPLETIONS)
    return [content_frame(head._replace(model=""), _now())] if is_older else []


def _request_id() -> str:
    return f"req_{secrets.token_hex(12)}"


def _whole(told: Sequence[Piece], reply: Reply) -> Answer:
    return Answer(
        text="".join(piece.text for piece in told),
        thinking="".join(piece.thinking for piece in told),
        tool_calls=tuple(call for piece in told for call in piece.tool_calls),
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
    )


def _stats(work: Work, load_s: float) -> Stats:
    """Durations as the simulated hardware took them, whatever the speed they were played at."""
    load_ns = int(load_s * 1e9) + _OWN_WORK_NS
    prompt_ns, decode_ns = int(work.prefill_s * 1e6) * 1000, max(1, int(work.decode_s * 1e6)) * 1000
    return Stats(
        total_ns=load_ns + int(work.wait_s * 1e9) + prompt_ns + decode_ns,
        load_ns=load_ns,
        prompt_tokens=work.reply.prompt_tokens,
        prompt_ns=prompt_ns,
        completion_tokens=work.completion_tokens,
        completion_ns=decode_ns if work.completion_tokens else 0,
    )


def _fitted(call: Call, tokens: int, context: int) -> int:
    """Tokens of the prompt that stay. Raises CallerError where the caller would rather not have it cut."""
    if tokens < context:
        return tokens
    if call.endpoint.dialect is Dialect.OLLAMA and call.body.get("shift") is False:
        raise caller_error(400, _NO_SHIFT)
    if call.endpoint.dialect is Dialect.OLLAMA and call.body.get("truncate") is False:
        counts = {"n_prompt_tokens": tokens, "n_ctx": context}
        told = f"request ({tokens} tokens) exceeds the available context size ({context} tokens), try increasing it"
        raise _llama_server_error(told, "exceed_context_size_error", counts)
    return prompt_tokens_kept(tokens, context)


def _refuse_pictures(call: Call, model: SimulatedModel) -> None:
    if "vision" not in model.capabilities and any(turn.has_images for turn in turns(call)):
        told = "Multimodal data provided, but model does not support multimodal requests."
        raise _llama_server_error(told, "invalid_request_error", {})


def _llama_server_error(message: str, kind: str, more: dict[str, Any]) -> CallerError:
    """Ollama passes its llama-server's JSON on as the text of its own error."""
    return caller_error(400, gojson.dumps({"error": {"code": 400, "message": message, "type": kind} | more}).decode())


def _wanted_context(call: Call) -> int | None:
    """Ollama's own paths may ask for another context, which loads the model again."""
    wanted = (call.body.get("options") or {}).get("num_ctx") if call.endpoint.dialect is Dialect.OLLAMA else None
    return int(wanted) if isinstance(wanted, int | float) and wanted > 0 else None


def _wanted_keep_alive(call: Call) -> float | None:
    has_word = call.endpoint.dialect is Dialect.OLLAMA and "keep_alive" in call.body
    return keep_alive_s(call.body["keep_alive"]) if has_word else None


def _now() -> datetime:
    return datetime.now(UTC)
