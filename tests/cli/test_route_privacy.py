"""`ollamactl route explain` says how far a call may go, by all that decides it, and who may not have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import main

WORLD = """
models: {little: {}}
providers: {out: {url: "https://out.example.com/v1"}}
tiers: {small: {model: little, backup: far}, far: {model: far-8b, provider: out}}
routes: {auto: {full: small}, contracts: {full: small, privacy: local}}
keys: [{name: personnel, secret: 0123456789abcdef, privacy: internal}, {name: web, secret: fedcba9876543210}]
privacy: {words: [words.txt]}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("Kızılelma*\n", encoding="utf-8")
    (tmp_path / "cluster.yaml").touch(mode=0o600)
    (tmp_path / "cluster.yaml").write_text(WORLD, encoding="utf-8")
    return tmp_path / "cluster.yaml"


def explained(config: Path, *more: str) -> dict[str, Any]:
    state = str(config.parent / "state")
    told = CliRunner().invoke(main, ["route", "explain", "--config", str(config), "--state", state, "--json", *more])
    assert told.exit_code == 0, told.output
    found: dict[str, Any] = json.loads(told.output)
    return found


@pytest.mark.parametrize(
    ("asked", "auto", "contracts"),
    [
        (["Merhaba"], ("public", True), ("local", False)),
        (["--caller", "web", "Merhaba"], ("public", True), ("local", False)),
        (["--caller", "personnel", "Merhaba"], ("internal", False), ("local", False)),
        (["--header", "X-Privacy: local", "Merhaba"], ("local", False), ("local", False)),
        (["Kızılelma'nın bütçesi"], ("local", False), ("local", False)),
        (["--images", "Bu ne?"], ("local", False), ("local", False)),
    ],
)
def test_class_by_question_route_key_header_and_own_words(config, asked, auto, contracts):
    routes = explained(config, *asked)["routes"]
    for name, (privacy, may) in (("auto", auto), ("contracts", contracts)):
        small, far = routes[name]["tiers"]
        assert (routes[name]["privacy"]["class"], small["may_answer"], far["may_answer"]) == (privacy, True, may)


def test_a_route_that_is_stricter_than_the_question_says_so(config):
    told = CliRunner().invoke(
        main, ["route", "explain", "--config", str(config), "--state", str(config.parent), "Merhaba"]
    )
    lines = [" ".join(line.split()) for line in told.output.splitlines()]
    assert "privacy public: nothing private was recognised" in lines
    assert "privacy local: route contracts" in lines


def test_a_caller_whose_key_nobody_has_is_said(config):
    told = CliRunner().invoke(main, ["route", "explain", "--config", str(config), "--caller", "webb", "Merhaba"])
    assert told.exit_code == 2
    assert "there is no API key 'webb'; there are: anonymous, personnel, web" in told.output
