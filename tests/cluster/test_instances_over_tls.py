"""Servers that somebody else runs behind https, before a whole cluster: checked always, and why one is not asked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import yaml
from click.testing import CliRunner
from running import TIMEOUT_S, Up, needs_redis, until

from orchestrator.cli.main import main
from tests.fleet.given_world import Played, model
from tests.tls_front import expired, files_of, fronts

HERE = "127.0.0.1"
END = "olm_certificate_end_timestamp_seconds"
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

    def ends() -> dict[str, float]:
        """By port of what is told of servers' own certificates, when they end."""
        told = httpx.get(f"{up.endpoint}/metrics", timeout=TIMEOUT_S).text.splitlines()
        lines = [each.rpartition(" ") for each in told if each.startswith(f'{END}{{kind="server",')]
        return {labels.partition(f"{HERE}:")[2].partition('"')[0]: float(value) for labels, _, value in lines}

    ports = {each["name"]: each["url"].rpartition(":")[2] for each in yaml.safe_load(config.read_text())["instances"]}
    until(lambda: ends().keys() >= {ports["good"], ports["expired"]}, "what servers show is told")
    assert ends()[ports["expired"]] < time.time() < ends()[ports["good"]]
    assert ports["in-clear"] not in ends()
    looked = CliRunner().invoke(main, ["doctor", "--state", str(tmp_path / "state"), "--json"])
    ended = [each for each in json.loads(looked.stdout) if each["check"] == "certificates" and each["mends"]]
    assert [(each["where"], each["what"]) for each in ended] == [
        (f"{HERE}:{ports['expired']}", "the certificate that it shows has ended")
    ]
