"""What hosts tell of themselves: accelerators, memory, models on their disks."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.model.ids import NodeName


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds VRAM. `vram_bytes` is None where the driver will not say (containers, MIG)."""

    pid: int
    vram_bytes: int | None
    name: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One GPU (or MIG device) as NVML saw it; what the driver does not support is None, never a guess."""

    uuid: str
    index: int
    name: str
    vram_total_bytes: int
    vram_free_bytes: int
    vram_used_bytes: int
    processes: tuple[GpuProcess, ...] = ()
    utilisation_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    mig: str = "unsupported"  # "on" | "off" | "unsupported"
    ecc: str = "unsupported"  # "on" | "off" | "unsupported"
    parent_uuid: str | None = None  # of a MIG device: the card it is a slice of
    is_simulated: bool = False
    pci: str | None = None  # address as the system writes it; of a MIG device: its card's
    numa_node: int | None = None
    pcie_generation: int | None = None  # at its best: a resting card lowers both
    pcie_width: int | None = None


@dataclass(frozen=True, slots=True)
class GpuLink:
    """How near two cards of a host are: the PCIe path in words, and NVLinks between them."""

    uuids: tuple[str, str]
    path: str
    nvlinks: int = 0


@dataclass(frozen=True, slots=True)
class NumaNode:
    node: int
    cpus: str  # as the kernel lists them: `0-15,32-47`
    ram_total_bytes: int


@dataclass(frozen=True, slots=True)
class OllamaServer:
    """An `ollama serve` that runs on a host, whoever started it. What its host would not tell is None."""

    pid: int
    port: int | None
    user: str
    models_dir: str | None
    unit: str | None = None  # its systemd unit
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class ModelOnDisk:
    """A model whose files are all there."""

    name: str
    digest: str  # of its manifest, as Ollama tells it
    size_bytes: int


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What one host is and has, at one moment. `problems` are sentences for the operator, each with a way out."""

    node: NodeName
    hostname: str
    cpu_model: str
    cpu_count: int
    ram_total_bytes: int
    ram_free_bytes: int
    disk_free_bytes: int
    accelerators: tuple[Accelerator, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    problems: tuple[str, ...] = ()
    is_simulated: bool = False
    gpu_links: tuple[GpuLink, ...] = ()
    numa_nodes: tuple[NumaNode, ...] = ()
    ollamas: tuple[OllamaServer, ...] = ()
    models: tuple[ModelOnDisk, ...] = ()
