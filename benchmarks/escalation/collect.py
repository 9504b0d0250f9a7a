"""Real answers with their tokens' log probabilities: `python -m benchmarks.escalation.collect`, some five minutes.

Asks the built-in engine (llama.cpp, SmolLM2-135M) each question once, at temperature 0, and writes what the statistics
are compared on: right or wrong, and for each token its log probability and that of the next best one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.escalation.questions import kind_of, questions
from orchestrator.core.evaluation.grading import grade
from orchestrator.nodes.llama_cpp import bundled_weights

ANSWERS = Path(__file__).with_name("answers.jsonl.gz")
TOKENS, TOKENS_OF_SUMS = 40, 120
READY_WITHIN_S = 60


@contextmanager
def engine(weights: Path) -> Iterator[str]:
    """The built-in engine on a free port; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "orchestrator.nodes.llama_cpp", "--model-file", str(weights), "--alias", "m"]
    command += ["--port", str(port), "--slots", "1", "--context", "1024"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _until_ready(url)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _until_ready(url: str) -> None:
    until_s = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > until_s:
                raise
            time.sleep(0.2)


def ask(url: str, prompt: str, tokens: int) -> tuple[str, list[tuple[float, float]]]:
    """The answer, and for each of its tokens the log probability of it and of the next best one."""
    wanted = {
        "model": "m",
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": tokens,
        "logprobs": True,
        "top_logprobs": 2,
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(wanted).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as reply:
        choice = json.load(reply)["choices"][0]
    return choice["message"]["content"], [_both(each) for each in choice["logprobs"]["content"]]


def _both(token: dict[str, Any]) -> tuple[float, float]:
    others = [each["logprob"] for each in token["top_logprobs"] if each["token"] != token["token"]]
    return round(token["logprob"], 4), round(max(others, default=token["logprob"]), 4)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.escalation.collect", description=__doc__)
    parser.add_argument("--weights", type=Path, default=bundled_weights(), help="GGUF file")
    parser.add_argument("--out", type=Path, default=ANSWERS)
    wish = parser.parse_args()
    asked = questions()
    with engine(wish.weights) as url, gzip.open(wish.out, "wt") as out:
        for n, each in enumerate(asked, 1):
            text, tokens = ask(url, each.prompt, TOKENS_OF_SUMS if kind_of(each) == "gsm8k" else TOKENS)
            row = {"id": each.id, "kind": kind_of(each), "right": grade(each, text), "tokens": tokens, "text": text}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            if n % 50 == 0:
                print(f"{n} of {len(asked)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
