"""Bytes of the scripted answers, in Ollama's and in OpenAI's dialect; each repeats its call's number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

WHEN = "2026-11-21T12:00:00.000000Z"
COUNTS = (
    '"done_reason":"stop","total_duration":1000000,"load_duration":1000,"prompt_eval_count":26,'
    '"prompt_eval_duration":100000,"eval_count":100,"eval_duration":800000'
)

# It leaves the last message open, as those of Ollama's library do: an answer that was begun is gone on with.
_TEMPLATE = (
    "{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 }}"
    "[{{ .Role }}]{{ .Content }}{{ if not $last }}[end]{{ end }}{{- end }}"
)


class Dialect:
    """One endpoint's answers. `body` and `frame` have the text's place in them."""

    def __init__(self, content_type: str, body: tuple[str, str], frame: tuple[str, str], last: str) -> None:
        self._type = content_type.encode()
        self._body = (body[0].encode(), body[1].encode())
        self._frame = (frame[0].encode(), frame[1].encode())
        self.word = chunk(self._framed(b"word "))
        self.end = chunk(last.encode()) + b"0\r\n\r\n"

    @property
    def head(self) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % self._type

    def first(self, number: bytes) -> bytes:
        return chunk(self._framed(number + b" "))

    def whole(self, number: bytes, words: int) -> bytes:
        body = self._body[0] + number + b" " + b"word " * words + self._body[1]
        return reply(body)

    def _framed(self, text: bytes) -> bytes:
        return self._frame[0] + text + self._frame[1]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def reply(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


@lru_cache(maxsize=256)
def dialect_of(path: str, model: str) -> Dialect | None:
    """How calls to `path` are answered; None if it answers no calls."""
    begin = f'{{"model":"{model}","created_at":"{WHEN}",'
    if path == "/api/chat":
        text = begin + '"message":{"role":"assistant","content":"'
        return Dialect(
            "application/x-ndjson", (text, f'"}},"done":true,{COUNTS}}}'), (text, '"},"done":false}\n'),
            f'{text}"}},"done":true,{COUNTS}}}\n',
        )  # fmt: skip
    if path == "/api/generate":
        text = begin + '"response":"'
        return Dialect(
            "application/x-ndjson", (text, f'","done":true,{COUNTS}}}'), (text, '","done":false}\n'),
            f'{text}","done":true,{COUNTS}}}\n',
        )  # fmt: skip
    if path == "/v1/chat/completions":
        begin = f'{{"id":"chatcmpl-1","object":"chat.completion","created":1763726400,"model":"{model}",'
        begin += '"choices":[{"index":0,'
        end = '"finish_reason":"stop"}],"usage":{"prompt_tokens":26,"completion_tokens":100,"total_tokens":126}}'
        frame = "data: " + begin.replace("completion", "completion.chunk", 1) + '"delta":{'
        return Dialect(
            "text/event-stream", (begin + '"message":{"role":"assistant","content":"', '"},' + end),
            (frame + '"role":"assistant","content":"', '"},"finish_reason":null}]}\n\n'),
            frame + '},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
        )  # fmt: skip
    return None


def emptied(model: str, reason: str) -> bytes:
    """The answer to a call that only loads or unloads."""
    told = {"model": model, "created_at": WHEN, "response": "", "done": True, "done_reason": reason}
    return reply(json.dumps(told).encode())


def version() -> bytes:
    return reply(b'{"version":"0.33.0"}')


def tags(models: Sequence[str]) -> bytes:
    return reply(json.dumps({"models": [_described(each) for each in models]}).encode())


def resident(model: str) -> bytes:
    loaded = {**_described(model), "expires_at": "2318-11-21T12:00:00Z", "size_vram": 2019393189}
    loaded["context_length"] = 4096
    return reply(json.dumps({"models": [loaded]}).encode())


def openai_models(models: Sequence[str]) -> bytes:
    data = [{"id": each, "object": "model", "created": 1763726400, "owned_by": "library"} for each in models]
    return reply(json.dumps({"object": "list", "data": data}).encode())


def shown() -> bytes:
    info = {"general.architecture": "llama", "llama.context_length": 131072}
    told = {"details": _details(), "model_info": info, "capabilities": ["completion"], "template": _TEMPLATE}
    return reply(json.dumps(told).encode())


def _described(model: str) -> dict[str, object]:
    return {
        "name": model, "model": model, "modified_at": WHEN, "size": 2019393189,
        "digest": "a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72", "details": _details(),
    }  # fmt: skip


def _details() -> dict[str, object]:
    return {
        "parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "3.2B",
        "quantization_level": "Q4_K_M",
    }  # fmt: skip
