"""A simulated instance by the command line and environment of a real one: `ollama serve` and `ollama --version`.

For hosts whose units, folders and ports are real and whose engine is played. Models are those of the catalogue, and lie
in OLLAMA_MODELS as a real Ollama's do (`folder`). How it plays is in a file, by default none: `Behaviour` has its keys.
No driver is asked for a GPU: with CUDA_VISIBLE_DEVICES it plays the card that file names, without it a CPU.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import uvloop
from pydantic import ConfigDict, TypeAdapter, ValidationError

from orchestrator.core.cards import find_card
from orchestrator.core.catalogue import find
from orchestrator.core.dialects.errors import MalformedCall
from orchestrator.core.dialects.parse import keep_alive_s
from orchestrator.core.physics import LOAD_BANDWIDTH_BYTES_S
from orchestrator.core.sizing import footprint, served_slots
from orchestrator.nodes.simulator.config import ConfigError, SimulatedModel, SimulatorConfig, parameter_size
from orchestrator.nodes.simulator.folder import ModelFolder, PullPace
from orchestrator.nodes.simulator.server import serve

VERSION: Final = "0.33.0-rc2"
BEHAVIOUR: Final = Path("/etc/ollama-stand-in.json")
_DEFAULT_PORT: Final = 11434
# What a real one leaves behind when it is killed: a process of its own that holds a model.
_RUNNER: Final = "import signal; signal.pause()"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How it plays. `pull_*` and `weights_bytes` are looked at again at each pull, the others when it starts."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    card: str = "RTX 4090"
    version: str = VERSION
    speed: float = 20.0  # simulated seconds in one second
    load_bytes_s: float = LOAD_BANDWIDTH_BYTES_S
    load_error: str = ""
    answer_error: str = ""
    pull_error: str = ""
    pull_bytes_s: float = 125e6
    weights_bytes: int = 2 * 2**20  # of each model it pulls
    ignores_sigterm: bool = False
    has_runner: bool = False


_BEHAVIOUR: Final = TypeAdapter(Behaviour)


def behaviour(path: Path) -> Behaviour:
    """What the file says; where there is none, the usual. Raises ConfigError."""
    try:
        return _BEHAVIOUR.validate_json(path.read_bytes())
    except FileNotFoundError:
        return Behaviour()
    except OSError as why:
        raise ConfigError(f"{path}: {why.strerror}") from why
    except ValidationError as why:
        first = why.errors(include_url=False)[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from why


def config_from(environment: Mapping[str, str], plays: Behaviour) -> SimulatorConfig:
    """The instance that a real Ollama would be with this environment. Raises ConfigError, naming the variable."""
    host, port = _address(environment.get("OLLAMA_HOST", ""))
    return SimulatorConfig(
        instance="ollama",
        host=host,
        port=port,
        models=(),
        card=find_card(plays.card).name if environment.get("CUDA_VISIBLE_DEVICES") else "",
        version=plays.version,
        speed=plays.speed,
        max_queue=_number(environment, "OLLAMA_MAX_QUEUE", 512),
        max_loaded_models=_number(environment, "OLLAMA_MAX_LOADED_MODELS", 0) or 3,
        keep_alive_s=_keep_alive_s(environment.get("OLLAMA_KEEP_ALIVE", "")),
        load_bandwidth_bytes_s=plays.load_bytes_s,
        load_error=plays.load_error,
        answer_error=plays.answer_error,
    )


def model_of(name: str, environment: Mapping[str, str], *, on_gpu: bool) -> SimulatedModel | None:
    """What a catalogue's model is on this instance; None for a name that the catalogue does not have."""
    shape = find(name)
    if shape is None:
        return None
    slots = served_slots(shape, _number(environment, "OLLAMA_NUM_PARALLEL", 0) or 1)
    context = min(_number(environment, "OLLAMA_CONTEXT_LENGTH", 0) or 4096, shape.context_length)
    kv_type = environment.get("OLLAMA_KV_CACHE_TYPE") or "f16"
    return SimulatedModel(
        name=name,
        shape=shape,
        footprint=footprint(shape, context, slots, kv_type, on_gpu=on_gpu),
        context=context,
        slots=slots,
        capabilities=("embedding",) if shape.is_embedding else ("completion", "tools"),
        family=shape.arch,
        parameter_size=parameter_size(shape.parameters),
        kv_type=kv_type,
    )


def main(argv: list[str] | None = None) -> int:
    match sys.argv[1:] if argv is None else argv:
        case ["--version" | "-v"]:
            print("simulated: no model runs here", file=sys.stderr)
            print(f"ollama version is {behaviour(_behaviour_file(os.environ)).version}")
            return 0
        case ["serve"]:
            return _serve(dict(os.environ))
        case _:
            print("ollama (simulated): only `serve` and `--version` are played", file=sys.stderr)
            return 2


def _serve(environment: Mapping[str, str]) -> int:
    file = _behaviour_file(environment)
    try:
        plays = behaviour(file)
        config = config_from(environment, plays)
        on_gpu = bool(config.card)

        def pace() -> PullPace:
            now = behaviour(file)
            return PullPace(now.weights_bytes, now.pull_bytes_s * now.speed, now.pull_error)

        folder = ModelFolder(_models_dir(environment), lambda name: model_of(name, environment, on_gpu=on_gpu), pace)
        with _runner(plays):
            uvloop.run(serve(config, folder, heeds_sigterm=not plays.ignores_sigterm))
    except (ConfigError, OSError, ValueError) as why:
        print(f"Error: {why}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _runner(plays: Behaviour) -> Iterator[None]:
    """A child that an orderly end takes along and a SIGKILL does not."""
    if not plays.has_runner:
        yield
        return
    command = [sys.executable, "-I", "-S", "-c", _RUNNER, "ollama runner"]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 (its own text)
    try:
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()


def _behaviour_file(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("OLLAMA_STAND_IN", BEHAVIOUR))


def _models_dir(environment: Mapping[str, str]) -> Path:
    """As a real one, which does not start without the home that it keeps its key in."""
    home = environment.get("HOME")
    if not home:
        raise ConfigError("$HOME is not defined")
    return Path(environment.get("OLLAMA_MODELS") or Path(home) / ".ollama" / "models")


def _address(told: str) -> tuple[str, int]:
    """Host and port of OLLAMA_HOST, of which either may be left out."""
    rest = told.strip().partition("://")[2] or told.strip()
    host, colon, port = rest.strip("/").rpartition(":")
    if not colon:
        host, port = rest.strip("/"), ""
    if port and not port.isdecimal():
        raise ConfigError(f"OLLAMA_HOST: {told!r} has no port that is a number")
    return host.strip("[]") or "127.0.0.1", int(port or _DEFAULT_PORT)


def _number(environment: Mapping[str, str], name: str, usual: int) -> int:
    told = environment.get(name, "")
    if told and not told.isdecimal():
        raise ConfigError(f"{name}: {told!r} is no number")
    return int(told or usual)


def _keep_alive_s(told: str) -> float:
    """Seconds of OLLAMA_KEEP_ALIVE: a number of them, or a duration; below zero is for ever."""
    try:
        return keep_alive_s(float(told) if told.lstrip("-").isdecimal() else told or "5m")
    except MalformedCall as why:
        raise ConfigError(f"OLLAMA_KEEP_ALIVE: {why}") from why


if __name__ == "__main__":
    sys.exit(main())
