"""What is asked stays here: no process of a cluster calls anybody outside, and no file keeps a question."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import needs_built_in_engine, needs_redis
from walled import NAME_SERVER, NOBODY, NOBODY_6, Told, walled

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NEEDS = {"simulated": needs_redis, "built-in": needs_built_in_engine}


@pytest.fixture(scope="module", params=sorted(NEEDS))
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What came of a cluster that was asked and broken in a network of its own."""
    NEEDS[request.param]()
    return walled(tmp_path_factory.mktemp("walled"), request.param)


def test_the_watch_sees_names_asked_for_and_calls_over_both_protocols(told: Told) -> None:
    wanted = {
        f"udp {NAME_SERVER} port 53",
        f"tcp {NOBODY} port 443",
        f"tcp {NOBODY_6} port 443",
        f"udp {NOBODY} port 514",
    }
    assert wanted <= set(told.control)


def test_questions_of_every_kind_were_asked_and_answered(told: Told) -> None:
    assert told.answers["cloud"] == [404, 404], "a model of ollama.com is not known here"
    for path in ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions"):
        assert told.answers[path].count(200) >= 12, path


def test_no_process_of_the_cluster_called_anybody_outside(told: Told) -> None:
    assert told.outward == []


def test_no_file_and_no_page_holds_a_question(told: Told) -> None:
    names = {Path(each).name for each in told.files}
    assert {"gateway-0.log", "controller.log", "redis.log", "settings.yaml"} <= names
    assert any("appendonly" in each for each in told.files)
    assert "/metrics" in told.pages
    assert told.found == []
