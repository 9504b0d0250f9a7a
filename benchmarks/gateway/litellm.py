"""LiteLLM's proxy: least busy, one worker, retries. From PyPI into a venv of its own in the cache folder: 580 MB."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.gateway.contenders import Kind, Place
from benchmarks.gateway.jobs import KEY

VERSION = "1.106.2"


def command(place: Place) -> Sequence[str]:
    models = [
        {"model_name": model, "litellm_params": {"model": f"openai/{model}", "api_base": url, "api_key": "none"}}
        for model in place.setup.models
        for url in (f"http://127.0.0.1:{each}/v1" for each in place.instances)
    ]
    settings = {
        "model_list": models,
        "router_settings": {"routing_strategy": "least-busy", "num_retries": 2},
        "litellm_settings": {"telemetry": False, "request_timeout": 600, "set_verbose": False},
        "general_settings": {"master_key": KEY},
    }
    config = place.folder / "litellm.yaml"
    config.write_text(yaml.safe_dump(settings))
    program = str(_installed() / "bin" / "litellm")
    return [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(place.port), "--num_workers", "1"]


KIND = Kind(
    command,
    dialect="openai",
    # Without the first it asks the network for prices at every start.
    environment=(("LITELLM_LOCAL_MODEL_COST_MAP", "True"), ("LITELLM_LOG", "ERROR"), ("LITELLM_TELEMETRY", "False")),
)


def _installed() -> Path:
    """The venv, made by the first run that asks for it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    venv = cache / "ollama-orchestrator" / f"litellm-{VERSION}"
    if not (venv / "installed").exists():
        print(f"installing LiteLLM {VERSION} into {venv} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        python, wanted = str(venv / "bin" / "python"), f"litellm[proxy]=={VERSION}"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted], check=True)
        (venv / "installed").touch()
    return venv
