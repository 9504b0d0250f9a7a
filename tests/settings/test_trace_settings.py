"""Settings of traces: off unless an endpoint is named, and what opens it is printed nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.app.rules import rules_from
from orchestrator.core.errors import SettingsError
from orchestrator.gateway.live import TraceRules
from orchestrator.settings import ClusterSettings, parse, show

SECRET = "Basic dXNlcjpwYXNzd29yZA=="


def settings(**traces: Any) -> ClusterSettings:
    text = yaml.safe_dump({"models": {"m": {}}, "traces": traces})
    return parse(text, "/cluster.yaml", {"OTLP": SECRET})


def test_nothing_is_traced_unless_an_endpoint_is_named():
    assert rules_from(settings()).traces is None
    assert rules_from(settings(share=0.5)).traces is None


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://otlp.example.com/", "https://otlp.example.com/v1/traces"),
        ("https://otlp.example.com/otlp", "https://otlp.example.com/otlp/v1/traces"),
        ("http://[::1]:4318/v1/traces", "http://[::1]:4318/v1/traces"),
    ],
)
def test_an_endpoint_is_where_a_collector_takes_traces_with_or_without_their_path(endpoint, url):
    rules = rules_from(settings(endpoint=endpoint, share=0.25, headers={"Authorization": "env:OTLP"})).traces
    assert rules == TraceRules(url, 0.25, {"Authorization": SECRET})
    assert SECRET not in repr(rules)


@pytest.mark.parametrize(
    ("traces", "told"),
    [
        ({"endpoint": "127.0.0.1:4318"}, "expected where a collector takes OTLP over HTTP, such as http://127.0.0.1"),
        ({"endpoint": "grpc://x:4317"}, "traces.endpoint"),
        ({"endpoint": "http://user:secret@x:4318"}, "a URL is no place for a secret; set `headers`"),
        ({"share": 1.5}, "traces.share"),
        ({"headers": {"X-Key": "env:NOWHERE"}}, "traces.headers.X-Key: the environment variable 'NOWHERE' is not set"),
        ({"headers": {"Content-Length": "1"}}, "Content-Length is set with each request"),
        ({"headers": {"X Key": "1"}}, "'X Key' is not a header's name"),
        ({"endpont": "http://x"}, "did you mean 'endpoint'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line_that_names_it(traces, told):
    with pytest.raises(SettingsError) as why:
        settings(**traces)
    assert told in str(why.value)
    assert "secret@" not in str(why.value)


def test_what_opens_a_collector_is_printed_as_a_mask_and_lies_in_a_file_of_its_own(tmp_path: Path):
    told = settings(endpoint="http://x:4318", headers={"Authorization": "env:OTLP"})
    assert SECRET not in show(told)
    with pytest.raises(SettingsError, match="a mask printed in a secret's place"):
        parse(show(told), "/cluster.yaml", {})
    paths = StatePaths(tmp_path / "state")
    paths.root.mkdir(mode=0o700)
    settings_in_use.write(paths, told)
    assert settings_in_use.read(paths) == told
    assert SECRET not in paths.settings.read_text()
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in paths.secrets.iterdir())
