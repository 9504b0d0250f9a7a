"""`ollamactl plan` where the built-in engine's small weights serve in the place of models: it is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.main import main

NO_OLLAMA = "`ollama` is not on PATH here, so SmolLM2-135M serves on the CPU as"


def planned(*words: str) -> str:
    done = CliRunner().invoke(main, ["plan", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("settings", "has_ollama", "says"),
    [
        ("", False, f"{NO_OLLAMA} smollm2:135m, smollm2-8k:135m, and what is planned has its size"),
        ("models: {llama3.1:8b: }", False, f"{NO_OLLAMA} llama3.1:8b, and what is planned has its size"),
        ("engine: llama.cpp\nmodels: {llama3.1:8b: }", True, "`engine: llama.cpp` is set, so SmolLM2-135M serves on"),
        ("models: {llama3.2:1b: {context: 256}}", True, None),
        ("nodes: [{name: sim, simulate: RTX 4090}]\nmodels: {llama3.1:8b: }", False, None),
    ],
)
def test_a_plan_of_small_weights_in_the_place_of_others_says_so_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, has_ollama: bool, says: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    if settings:
        Path("cluster.yaml").write_text(f"{settings}\n")
    if has_ollama:
        Path("ollama").touch(mode=0o755)
    notes = json.loads(planned("--json"))["notes"]
    assert [each for each in (says,) if each] == [each[: len(says or "")] for each in notes]
    told = planned()
    assert all(f"note: {each}" in told for each in notes)
    assert ("SmolLM2-135M" in told) is (says is not None)
    assert all(("put `ollama` on PATH" in each) is not has_ollama and '--simulate "RTX 4090"' in each for each in notes)
