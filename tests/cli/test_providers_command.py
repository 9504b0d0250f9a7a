"""`ollamactl providers`: what the catalogue and the settings have, and whether providers answer."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from orchestrator.cli.main import main
from tests.gateway.far_side import KEY, MODEL, far_side

SETTINGS: dict[str, Any] = {
    "models": {"m": {}},
    "providers": {"groq": {"key": KEY, "plan": "free"}},
    "tiers": {"small": {"model": "m"}, "full": {"provider": "groq", "model": "llama-3.3-70b-versatile"}},
    "routes": {"auto": {}},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(SETTINGS))
    return path


def test_list_shows_settings_and_catalogue_with_its_day_and_no_key(config):
    for more in ((), ("--json",)):
        told = CliRunner().invoke(main, ["providers", "list", "--config", str(config), *more])
        assert told.exit_code == 0, told.output
        assert KEY not in told.output
        assert "2026-" in told.output
    read = json.loads(told.output)
    groq = read["providers"]["groq"]
    assert groq["tiers"]["full"] == {"model": "llama-3.3-70b-versatile", "price": None, "limits": {"tpd": 100_000}}
    assert groq["has_key"] is True
    assert read["catalogue"]["mistral"]["prices"]["mistral-nemo"] == {"prompt": 0.15, "completion": 0.15}
    assert read["catalogue"]["openrouter"]["plans"]["free"] == {"*": {"rpd": 50}}


HEADERS = {"X-Account": "env:GROQ_ACCOUNT", "X-Title": "support"}


def unset(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings whose secrets are in the environment, and an environment that has one of them."""
    groq = {"key": "env:GROQ_KEY", "headers": HEADERS}
    tiers = {
        **SETTINGS["tiers"],
        "full": {**SETTINGS["tiers"]["full"], "backup": "other"},
        "other": {"provider": "mistral", "model": "mistral-nemo"},
    }
    told = {
        **SETTINGS,
        "providers": {"groq": groq, "mistral": {"key": "env:MISTRAL_KEY"}},
        "tiers": tiers,
        "keys": [{"name": "w", "secret": "env:W_KEY"}],
    }
    config.write_text(yaml.safe_dump(told))
    for name in ("GROQ_KEY", "GROQ_ACCOUNT", "W_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MISTRAL_KEY", KEY)


def test_list_needs_no_secret_and_says_which_variable_is_missing_for_which_provider(config, monkeypatch):
    unset(config, monkeypatch)
    told = CliRunner().invoke(main, ["providers", "list", "--config", str(config)])
    assert told.exit_code == 0, told.output
    assert KEY not in told.output
    assert re.search(r"groq .* GROQ_KEY", told.stdout)
    assert re.search(r"mistral .* set ", told.stdout)
    for each in ("providers.groq.key: the environment variable GROQ_KEY", "the environment variable W_KEY"):
        assert f"{each} is not set here" in told.stderr
    assert "MISTRAL_KEY" not in told.output
    read = json.loads(CliRunner().invoke(main, ["providers", "list", "--config", str(config), "--json"]).stdout)
    found = {name: (each["has_key"], each["not_set"]) for name, each in read["providers"].items()}
    assert found == {"groq": (False, ["GROQ_KEY", "GROQ_ACCOUNT"]), "mistral": (True, [])}


def test_a_variable_that_is_set_to_nothing_is_as_one_that_is_not(config, monkeypatch):
    unset(config, monkeypatch)
    monkeypatch.setenv("GROQ_KEY", " ")
    told = CliRunner().invoke(main, ["providers", "list", "--config", str(config)])
    assert (told.exit_code, "variable GROQ_KEY is not set here" in told.stderr) == (0, True)


def test_who_asks_the_providers_needs_their_secrets_as_a_start_does(config, monkeypatch):
    unset(config, monkeypatch)
    for command in (["providers", "check"], ["config", "check"]):
        told = CliRunner().invoke(main, [*command, "--config", str(config)])
        assert told.exit_code == 3
        assert "providers.groq.key: the environment variable 'GROQ_KEY' is not set" in told.output


def test_list_refuses_what_is_wrong_beside_a_missing_variable(config, monkeypatch):
    unset(config, monkeypatch)
    config.write_text(config.read_text() + "modles: {}\n")
    told = CliRunner().invoke(main, ["providers", "list", "--config", str(config)])
    assert (told.exit_code, "modles" in told.output, "GROQ_KEY" in told.output) == (3, True, False)


def test_list_shows_prices_and_quotas_as_lines(config):
    told = CliRunner().invoke(main, ["providers", "list", "--config", str(config)]).output
    assert "gemini-2.5-pro" in told
    assert "free: tpm 8,000, tpd 200,000" in told
    assert "groq/llama-3.3-70b-versatile" in told


def test_a_name_that_is_no_provider_is_refused(config):
    told = CliRunner().invoke(main, ["providers", "check", "mistral", "--config", str(config)])
    assert told.exit_code == 2
    assert "there is no provider 'mistral'; there are: groq" in told.output


async def checked(config: Path, *words: str) -> tuple[int | None, str]:
    """The command as a process of its own, beside the provider that this one plays."""
    command = [sys.executable, "-m", "orchestrator.cli", "providers", "check", "--config", str(config), *words]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ, "COLUMNS": "200"}
    )
    told, _ = await process.communicate()
    return process.returncode, told.decode()


async def test_check_asks_each_provider_and_fails_where_one_does_not_answer(tmp_path):
    async with far_side() as far:
        authority, config = tmp_path / "ca.pem", tmp_path / "cluster.yaml"
        config.touch(mode=0o600)
        far.ca.cert_pem.write_to_path(str(authority))
        provider = {"url": f"https://localhost:{far.port}/v1", "key": KEY, "ca": "ca.pem"}
        tiers = {"small": {"model": "m"}, "full": {"provider": "far", "model": MODEL}}
        tree = {**SETTINGS, "providers": {"far": provider}, "tiers": tiers}
        config.write_text(yaml.safe_dump(tree))
        code, told = await checked(config)
        assert (code, len(told.splitlines())) == (0, 2), told
        assert f"far/{MODEL} answers after" in told
        assert "20 + 9 tokens" in told
        assert len(far.bodies) == 2

        provider["key"] = "sk-nobodys-0123456789"
        config.write_text(yaml.safe_dump(tree))
        code, told = await checked(config, "far", "--json")
        assert code == 1
        assert [each["is_good"] for each in json.loads(told)] == [False, False]
        assert "refuses the key" in told
        assert "sk-nobodys" not in told

        provider.update(key=KEY, ca="/etc/hosts")
        del provider["ca"]
        config.write_text(yaml.safe_dump(tree))
        code, told = await checked(config)
        assert code == 1
        assert "the certificate of localhost" in told
