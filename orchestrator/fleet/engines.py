"""How an instance is started: the engine of this machine, the command and the environment of one process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.address import address_text
from orchestrator.core.errors import HostError
from orchestrator.core.model import Engine, Placement
from orchestrator.core.sizing import FIT_TARGET_BYTES, MIB
from orchestrator.fleet.made import UNIT_PREFIX
from orchestrator.nodes.keeper_units import Unit
from orchestrator.nodes.llama_cpp import bundled_weights
from orchestrator.nodes.onhost.units import TLS_LISTENS
from orchestrator.nodes.weights import ollama_models_dir

# Of the controller's environment: what a download needs, and where libraries are.
_PASSED_ON = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH")

# Calls that may wait in an instance for its model to come into memory, by default 512: those in its slots when its
# runner died, probes and loads. All others wait in the pool's queue, where any instance may take them.
QUEUED_BEYOND_SLOTS = 4


# Where an instance listens behind TLS, on the port that its node's address has for it; every address of 127.0.0.0/8 is
# the host's own.
_BEHIND, _BEHIND_ITSELF = "127.0.0.1", "127.0.0.2"


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """What runs instances here: Ollama's binary, or the built-in llama.cpp with its bundled weights."""

    kind: Engine
    binary: str = ""
    weights: Path | None = None


def find_engine(wanted: str) -> LocalEngine:
    """The engine for `wanted` (`auto`, `ollama` or `llama.cpp`). Raises HostError, saying how to get one."""
    binary = shutil.which("ollama")
    if wanted == "ollama" or (wanted == "auto" and binary):
        if not binary:
            raise HostError("engine: ollama is not on PATH; install it from ollama.com, or set `engine: auto`")
        return LocalEngine(Engine.OLLAMA, binary)
    if importlib.util.find_spec("xllamacpp") is None:
        raise HostError(
            "no engine: neither `ollama` on PATH nor the built-in one; run `make install`, which brings the latter"
        )
    return LocalEngine(Engine.LLAMA_CPP, weights=bundled_weights())


def ollama_unit(placement: Placement, engine: LocalEngine, port: int, kv_type: str) -> Unit:
    """One `ollama serve`, pinned to its accelerators, sized as placed, and cut off from Ollama's cloud.

    All share one model folder, and each has a `HOME`: without one it does not start, it keeps its key there.
    """
    environment = {
        **_inherited(*_PASSED_ON),
        "HOME": str(Path.home()),
        "OLLAMA_MODELS": str(ollama_models_dir()),
        **_ollama_environment(placement, f"127.0.0.1:{port}", kv_type),
    }
    return Unit(name=UNIT_PREFIX + placement.instance, argv=(engine.binary, "serve"), env=environment)


def ollama_host_unit(
    placement: Placement, *, host: str, port: int, kv_type: str, models_dir: str, is_over_tls: bool = False
) -> Unit:
    """The same on a host that is reached over SSH, listening on its address `host`: ready once it does.

    Nothing of this machine's environment goes there. Program, user and `HOME` are the template's, for all instances.
    With `is_over_tls` it listens on loopback alone, and whoever ends TLS there on the address, both on one port.
    """
    behind = {TLS_LISTENS: f"{host}:{port}"} if is_over_tls else {}  # stunnel reads an address without brackets
    own = f"{_BEHIND if host != _BEHIND else _BEHIND_ITSELF}:{port}" if is_over_tls else address_text(host, port)
    environment = {"OLLAMA_MODELS": models_dir, **behind, **_ollama_environment(placement, own, kv_type)}
    return Unit(
        name=UNIT_PREFIX + placement.instance, argv=("ollama", "serve"), env=environment, ready=f"tcp:{host}:{port}"
    )


def _ollama_environment(placement: Placement, address: str, kv_type: str) -> Mapping[str, str]:
    """What its placement decides, wherever it runs."""
    environment = {
        "OLLAMA_HOST": address,
        "OLLAMA_NUM_PARALLEL": str(placement.slots),
        "OLLAMA_CONTEXT_LENGTH": str(placement.context),
        "OLLAMA_KV_CACHE_TYPE": kv_type,
        "OLLAMA_FLASH_ATTENTION": "1",
        "LLAMA_ARG_FIT_TARGET": str(FIT_TARGET_BYTES // MIB),  # by default a GiB a card would have to stay free
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_MAX_QUEUE": str(placement.slots + QUEUED_BEYOND_SLOTS),
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_NOPRUNE": "1",  # instances share one model folder: none may delete what another pulls
        "OLLAMA_NO_CLOUD": "1",  # a `*-cloud` model would send prompts out of the house
    }
    if placement.accelerators:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(placement.accelerators)
    if len(placement.accelerators) > 1:
        environment["OLLAMA_SCHED_SPREAD"] = "1"  # placement counted an even share on each of them
    return environment


def llama_cpp_unit(placement: Placement, weights: Path, port: int, *, is_embedding: bool) -> Unit:
    """The built-in engine: llama.cpp's server with one GGUF file on the CPU."""
    argv = [sys.executable, "-P", "-m", "orchestrator.nodes.llama_cpp", "--model-file", str(weights)]
    argv += ["--alias", placement.pool, "--port", str(port), "--slots", str(placement.slots)]
    argv += ["--context", str(placement.context), *(["--embedding"] if is_embedding else [])]
    return Unit(name=UNIT_PREFIX + placement.instance, argv=tuple(argv), env=_inherited("LD_LIBRARY_PATH"))


def simulator_unit(placement: Placement, config: Path) -> Unit:
    """A simulated instance in the place of an engine."""
    argv = (sys.executable, "-P", "-m", "orchestrator.nodes.simulator", "--config", str(config))
    return Unit(name=UNIT_PREFIX + placement.instance, argv=argv, env={})


def _inherited(*names: str) -> Mapping[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}
