"""What docs/openapi.yaml says, asked of a gateway that runs, and much that it does not say: no request is too odd."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from orchestrator.settings import ClusterSettings
from tests.gateway.played import played, pool_of
from tests.gateway.stand_in import standing_in

OPENAPI = Path(__file__).resolve().parents[2] / "docs" / "openapi.yaml"
EXAMPLES = 6
# It has no end.
ENDLESS = "/status/live"
# Ollama's own word for an option of a wrong type, and so ours.
CALLERS = ("must be of ", "invalid format")

# Full, or not in time: the caller may ask again.
LATER = (503, 504)

config = schemathesis.Config()
config.projects.default.phases.coverage.enabled = False  # every value beyond every bound of every field: minutes
schema = schemathesis.openapi.from_path(str(OPENAPI), config=config).exclude(path=ENDLESS)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway, and an instance that answers in a thread of its own: schemathesis asks from this one."""
    told: Future[str] = Future()
    over = asyncio.Event()
    folder = tmp_path_factory.mktemp("openapi")
    written = {"models": {"m": {}}, "tiers": {"small": {"model": "m"}, "full": {"model": "m"}}, "routes": {"auto": {}}}

    async def serve() -> None:
        async with standing_in(1) as (instance,):
            pool = pool_of("m", [instance.port], slots=8)
            async with played(folder, ClusterSettings.model_validate(written), [pool]) as world:
                told.set_result(world.url)
                await over.wait()
                assert "Traceback" not in world.logs(), world.logs()
                assert world.gateways[0].poll() is None

    loop = asyncio.new_event_loop()
    ended: Future[None] = Future()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as why:  # noqa: BLE001 - whatever it was, the fixture tells it
            (ended if told.done() else told).set_exception(why)
        else:
            ended.set_result(None)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield told.result()
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
        if told.exception() is None:
            ended.result()


@schema.parametrize()
@settings(max_examples=EXAMPLES, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_asked_is_answered_as_the_openapi_says(case: schemathesis.Case, url: str) -> None:
    response = case.call(base_url=url, timeout=60)
    if response.status_code in LATER:
        return
    if response.status_code >= 500 and not any(word in response.text for word in CALLERS):
        case.validate_response(response, checks=(not_a_server_error,))
    if response.status_code == 200 and "event-stream" not in response.headers.get("content-type", [""])[0]:
        case.validate_response(response, checks=(content_type_conformance, response_schema_conformance))
