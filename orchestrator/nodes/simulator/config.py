"""What a simulated Ollama is: its card, its models, its pace; written by the fleet, read by the process.

The file is JSON, one object, its keys the fields below. What an unknown key or a wrong value means is not guessed:
`ConfigError` names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import orjson

from orchestrator.core.cards import Card, find_card
from orchestrator.core.dialects.gofields import FOREVER_S
from orchestrator.core.model import CacheLayers, Footprint, ModelShape
from orchestrator.core.physics import LOAD_BANDWIDTH_BYTES_S
from orchestrator.whole_file import write_whole

# Room for so many instances in a card's file of active slots: far more than fit in its memory.
SEATS_PER_CARD: Final = 64

Record = TypeVar("Record")


class ConfigError(ValueError):
    """The simulator's configuration is wrong; the text says where."""


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """One model on the instance's disk. `context` is the default of a slot, and `footprint` is for that context."""

    name: str
    shape: ModelShape
    footprint: Footprint
    context: int
    slots: int = 1
    capabilities: tuple[str, ...] = ("completion",)
    digest: str = ""
    family: str = ""
    parameter_size: str = ""
    kv_type: str = "f16"
    file_bytes: int = 0
    modified_at: str = "2026-01-01T00:00:00Z"
    is_pulled: bool = True
    show: Mapping[str, Any] = field(default_factory=dict)  # fields of /api/show that stand in place of the usual ones
    weights_digest: str = ""  # models with the same one share a runner, as aliases do; empty: the weights are its own

    @property
    def weights(self) -> str:
        """What a runner is known by."""
        return self.weights_digest or self.name


@dataclass(frozen=True, slots=True)
class ScriptedAnswer:
    """A fixed answer, for tests against recordings. `question` is `simulator_script.question` of the call."""

    question: str
    pieces: tuple[Mapping[str, Any], ...] = ()  # text, thinking, tool_calls, logprobs, tokens; one frame each
    finish: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    context: tuple[int, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """One instance. `card` empty: a machine without one, whose models use no VRAM and are slow."""

    instance: str
    host: str
    port: int
    models: tuple[SimulatedModel, ...]
    card: str = ""
    version: str = "0.33.0-rc2"
    speed: float = 1.0  # simulated seconds in one second; keep-alives and timestamps stay real
    max_queue: int = 512
    max_loaded_models: int = 3
    keep_alive_s: float = 300.0
    load_bandwidth_bytes_s: float = LOAD_BANDWIDTH_BYTES_S
    pull_bandwidth_bytes_s: float = 125e6  # a line of 1 Gbit/s
    seats_file: str = ""  # shared by the instances on one card; empty: alone on it
    seat: int = 0
    script: tuple[ScriptedAnswer, ...] = ()
    load_error: str = ""  # every load fails by this text, as with a setting that llama.cpp refuses; empty: none does
    answer_error: str = ""  # every question fails by this text, though the model loads; empty: none does
    answers_nothing: bool = False  # every answer ends before its first token, and has no vector
    doubtful_share: float = 0.0  # of questions: their answers are told with unlikely log probabilities
    jam_after: int = 0  # so many streams left midway cost a slot until the model is unloaded; 0: none do

    @property
    def hardware(self) -> Card:
        return find_card(self.card) if self.card else CPU

    @property
    def marker(self) -> str:
        """What every answer begins with: nobody shall take it for a model's words."""
        return f"[simulated {self.card or 'CPU'}] "


# Eight cores of a server with six channels of DDR4-2933: 140 GB/s, and some 0.5 TFLOPS in llama.cpp's kernels.
CPU: Final = Card("CPU", 0, 140e9, 1.5e12)


def load_config(path: Path) -> SimulatorConfig:
    """The configuration in `path`. Raises ConfigError, naming file and field."""
    try:
        raw = orjson.loads(path.read_bytes())
    except OSError as why:
        raise ConfigError(f"{path}: {why.strerror}") from why
    except orjson.JSONDecodeError as why:
        raise ConfigError(f"{path}: not JSON: {why}") from why
    try:
        return _config(raw)
    except ConfigError as why:
        raise ConfigError(f"{path}: {why}") from why


def write_config(path: Path, config: SimulatorConfig) -> None:
    """Put `config` into `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, orjson.dumps(asdict(config), option=orjson.OPT_INDENT_2))


def config_for(
    *,
    instance: str,
    host: str,
    port: int,
    card: Card | None,
    card_id: str,
    model: str,
    shape: ModelShape,
    footprint: Footprint,
    slots: int,
    context: int,
    sim_dir: Path,
    seat: int,
    kv_type: str = "f16",
    speed: float = 1.0,
    is_pulled: bool = True,
) -> Path:
    """Write the configuration of one instance that serves one model, and return its file.

    It keeps its model in memory for ever, as the cluster's real instances do. Instances with the same `card_id` share
    its bandwidth; `seat` is this instance's number on that card, from 0.
    """
    served = SimulatedModel(
        name=model,
        shape=shape,
        footprint=footprint,
        context=context,
        slots=1 if shape.is_embedding else slots,
        capabilities=("embedding",) if shape.is_embedding else ("completion", "tools"),
        digest=hashlib.sha256(model.encode()).hexdigest(),
        family=shape.arch,
        parameter_size=parameter_size(shape.parameters),
        kv_type=kv_type,
        file_bytes=shape.weights_bytes,
        is_pulled=is_pulled,
    )
    config = SimulatorConfig(
        instance=instance,
        host=host,
        port=port,
        models=(served,),
        card=card.name if card else "",
        speed=speed,
        max_loaded_models=1,
        keep_alive_s=FOREVER_S,
        seats_file=str(sim_dir / f"{card_id}.seats") if card_id else "",
        seat=seat,
    )
    path = sim_dir / f"{instance}.json"
    _check(config)
    write_config(path, config)
    return path


def parameter_size(parameters: int) -> str:
    """A count of parameters as Ollama prints it: 134.52M, 8.0B."""
    if parameters >= 1_000_000_000:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.2f}M"


def _config(raw: object) -> SimulatorConfig:
    config = _record(SimulatorConfig, raw, "config", {"models": _models, "script": _script})
    _check(config)
    return config


def _check(config: SimulatorConfig) -> None:
    if not config.models:
        raise ConfigError("models: none; an instance serves at least one")
    if not 0 <= config.seat < SEATS_PER_CARD:
        raise ConfigError(f"seat: {config.seat}; a card has seats 0 to {SEATS_PER_CARD - 1}")
    for name in ("speed", "load_bandwidth_bytes_s", "pull_bandwidth_bytes_s", "max_loaded_models"):
        if getattr(config, name) <= 0:
            raise ConfigError(f"{name}: {getattr(config, name)}; it must be above 0")
    if not 0 <= config.doubtful_share <= 1:
        raise ConfigError(f"doubtful_share: {config.doubtful_share}; it must be from 0 to 1")
    try:
        config.hardware  # noqa: B018  raises for a card it does not know
    except ValueError as why:
        raise ConfigError(f"card: {why}") from why


def _models(raw: object) -> tuple[SimulatedModel, ...]:
    readers = {
        "shape": lambda given: _record(ModelShape, given, "shape", {"caches": _caches}),
        "footprint": lambda given: _record(Footprint, given, "footprint", {}),
        "capabilities": tuple,
    }
    return tuple(
        _record(SimulatedModel, each, f"models[{n}]", readers) for n, each in enumerate(_listed(raw, "models"))
    )


def _caches(raw: object) -> tuple[CacheLayers, ...]:
    return tuple(_record(CacheLayers, each, f"caches[{n}]", {}) for n, each in enumerate(_listed(raw, "caches")))


def _script(raw: object) -> tuple[ScriptedAnswer, ...]:
    readers = {"pieces": tuple, "context": tuple, "vectors": lambda given: tuple(map(tuple, given))}
    return tuple(
        _record(ScriptedAnswer, each, f"script[{n}]", readers) for n, each in enumerate(_listed(raw, "script"))
    )


def _listed(raw: object, where: str) -> list[object]:
    if not isinstance(raw, list):
        raise ConfigError(f"{where}: must be a list")
    return raw


_PLAIN: Final = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


def _record(kind: type[Record], raw: object, where: str, readers: Mapping[str, Any]) -> Record:
    """`raw` as a dataclass of `kind`; lists and objects in it are read by `readers`."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: must be an object")
    known = {each.name: each for each in fields(cast(Any, kind))}
    for name in raw:
        if name not in known:
            raise ConfigError(f"{where}.{name}: unknown; known are {', '.join(known)}")
    for name, each in known.items():
        if name not in raw and each.default is MISSING and each.default_factory is MISSING:
            raise ConfigError(f"{where}.{name}: missing")
    values = {name: readers[name](given) if name in readers else given for name, given in raw.items()}
    for name, given in values.items():
        wanted = _PLAIN.get(str(known[name].type))
        if wanted and (not isinstance(given, wanted) or (isinstance(given, bool) and bool not in wanted)):
            raise ConfigError(f"{where}.{name}: must be {known[name].type}, is {given!r}")
    return kind(**values)
