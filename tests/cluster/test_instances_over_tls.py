"""Servers that somebody else runs behind https, before a whole cluster: checked always, and why one is not asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import yaml
from running import TIMEOUT_S, Up, needs_redis, until

from tests.fleet.given_world import Played, model
from tests.tls_front import expired, files_of, fronts

HERE = "127.0.0.1"
WHY = {
    "stranger": "its certificate is refused: unable to get local issuer certificate; `ca` names a file",
    "other-name": "its certificate is refused: IP address mismatch",
    "expired": "its certificate is refused: certificate has expired",
    "nothing-shown": "it wants a certificate of ours: `cert` and `key`",
    "in-clear": "what answers there does not speak TLS",
}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    needs_redis()
    with ExitStack() as made:
        yield made


def servers(stack: ExitStack, folder: Path, played: Played) -> list[dict[str, Any]]:
    """Entries of `instances`: one that is as it should be, and one for each thing that may be wrong."""
    ours, others = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(folder / "ca.pem"))
    papers = {"ca": "ca.pem", **files_of(ours.issue_cert("gateway"), folder, "gateway")}
    shown = {
        "good": ours.issue_cert(HERE),
        "stranger": others.issue_cert(HERE),
        "other-name": ours.issue_cert("10.1.2.3"),
        "expired": expired(ours, HERE),
        "nothing-shown": ours.issue_cert(HERE),
    }
    ports = stack.enter_context(fronts(played.port, shown, ours, folder))
    entries = [{"name": name, "url": f"https://{HERE}:{port}", **papers} for name, port in ports.items()]
    without = {each: entries[-1].pop(each) for each in ("cert", "key")}
    assert entries[-1]["name"] == "nothing-shown"
    return [*entries, {"name": "in-clear", "url": f"https://{HERE}:{played.port}", "ca": "ca.pem", **without}]


def test_https_is_checked_both_ways_and_what_is_wrong_is_said(stack: ExitStack, tmp_path: Path) -> None:
    played = Played(tmp_path, model("small:1b"))
    stack.callback(played.kill)
    played.start()
    config = tmp_path / "cluster.yaml"
    config.write_text(yaml.safe_dump({"instances": servers(stack, tmp_path, played)}))
    up = Up(tmp_path / "state", "--workers", "1", config=config, command="gateway")
    stack.callback(up.close)
    up.wait_until_ready()

    until(lambda: all(each["state"] != "starting" for each in up.status()["given"]), "all were looked at")
    told = {each["name"]: (each["state"], each["reason"]) for each in up.status()["given"]}
    assert told.pop("good")[0] == "serving"
    assert {name: state for name, (state, _) in told.items()} == dict.fromkeys(WHY, "down")
    for name, (_, reason) in told.items():
        assert WHY[name] in reason, (name, reason)

    body = {"model": "small:1b", "messages": [{"role": "user", "content": "hello"}], "options": {"num_predict": 12}}
    with httpx.stream("POST", f"{up.endpoint}/api/chat", json=body, timeout=TIMEOUT_S) as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert answer.headers["X-Instance"] == "good/small:1b"
    assert len(lines) > 3
    assert lines[-1]["done"]
