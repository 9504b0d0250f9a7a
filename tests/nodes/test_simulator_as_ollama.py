"""The simulator by Ollama's command line and environment."""

from __future__ import annotations

import json

import pytest

from orchestrator.core.dialects.gofields import FOREVER_S
from orchestrator.nodes.simulator.as_ollama import Behaviour, behaviour, config_from, main, model_of
from orchestrator.nodes.simulator.config import ConfigError
from orchestrator.nodes.simulator.folder import ModelFolder, PullPace

ENVIRONMENT = {
    "OLLAMA_HOST": "10.0.0.7:11500", "OLLAMA_NUM_PARALLEL": "4", "OLLAMA_CONTEXT_LENGTH": "8192",
    "OLLAMA_KEEP_ALIVE": "-1", "OLLAMA_MAX_QUEUE": "7", "OLLAMA_MAX_LOADED_MODELS": "1",
    "CUDA_VISIBLE_DEVICES": "GPU-a",
}  # fmt: skip


def test_the_environment_says_what_instance_it_is():
    config = config_from(ENVIRONMENT, Behaviour(card="A100-40GB"))
    assert (config.host, config.port, config.card) == ("10.0.0.7", 11500, "A100-40GB")
    assert (config.max_queue, config.max_loaded_models, config.keep_alive_s) == (7, 1, FOREVER_S)
    model = model_of("llama3.1:8b", ENVIRONMENT, on_gpu=True)
    assert model is not None
    assert (model.slots, model.context, model.capabilities) == (4, 8192, ("completion", "tools"))


def test_without_an_environment_it_is_ollamas_usual_one_on_a_cpu():
    config = config_from({}, Behaviour())
    assert (config.host, config.port, config.card) == ("127.0.0.1", 11434, "")
    assert (config.max_queue, config.max_loaded_models, config.keep_alive_s) == (512, 3, 300.0)


@pytest.mark.parametrize(
    ("told", "host", "port"),
    [
        ("0.0.0.0", "0.0.0.0", 11434),
        (":11500", "127.0.0.1", 11500),
        ("http://10.0.0.7:11500/", "10.0.0.7", 11500),
        ("[::1]:11500", "::1", 11500),
    ],
)
def test_an_address_is_read_as_ollama_reads_it(told, host, port):
    config = config_from({"OLLAMA_HOST": told}, Behaviour())
    assert (config.host, config.port) == (host, port)


@pytest.mark.parametrize(
    ("name", "told"),
    [("OLLAMA_HOST", "a:b"), ("OLLAMA_MAX_QUEUE", "many"), ("OLLAMA_KEEP_ALIVE", "soon")],
)
def test_a_wrong_variable_is_named(name, told):
    with pytest.raises(ConfigError, match=name):
        config_from({name: told}, Behaviour())


def test_a_wrong_key_of_its_behaviour_is_named(tmp_path):
    file = tmp_path / "behaviour.json"
    file.write_text(json.dumps({"pull_eror": "x"}))
    with pytest.raises(ConfigError, match=r"behaviour\.json: pull_eror"):
        behaviour(file)
    assert behaviour(tmp_path / "none.json") == Behaviour()


def test_other_commands_than_serve_are_refused(capsys):
    assert main(["run", "llama3.1:8b"]) == 2
    assert "only `serve` and `--version` are played" in capsys.readouterr().err


async def test_a_pull_writes_the_same_files_wherever_it_runs(tmp_path):
    for folder in ("here", "there"):
        shelf = ModelFolder(
            tmp_path / folder, lambda name: model_of(name, {}, on_gpu=False), lambda: PullPace(5000, 1e12)
        )
        lines = [line async for line in shelf.pull("registry.ollama.ai/library/llama3.2:3b")]
        assert lines[-1] == {"status": "success"}
        assert [each.name for each in shelf.present()] == ["llama3.2:3b"]
        assert shelf.find("LLAMA3.2:3b") is not None

    def files(folder: str) -> dict[str, bytes]:
        root = tmp_path / folder
        return {str(each.relative_to(root)): each.read_bytes() for each in root.rglob("*") if each.is_file()}

    assert files("here") == files("there")
    assert len(files("here")) == 4


async def test_a_pull_of_what_no_registry_has_is_told_as_ollama_tells_it(tmp_path):
    shelf = ModelFolder(tmp_path, lambda name: model_of(name, {}, on_gpu=False), lambda: PullPace(5000, 1e12))
    lines = [line async for line in shelf.pull("no-such-model")]
    assert lines[-1] == {"error": "pull model manifest: file does not exist"}
    assert list(shelf.present()) == []
