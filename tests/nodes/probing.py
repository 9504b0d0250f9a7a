"""Hosts to probe: cards as a played NVML has them, and files of a /sys, /proc and /dev."""

from __future__ import annotations

from pathlib import Path

from orchestrator.core.model import NodeFacts, NodeName
from orchestrator.nodes.probe import probe

MIB = 2**20
RTX_4090 = (
    "gpu uuid=GPU-4090-a name=NVIDIA_GeForce_RTX_4090 pci=00000000:01:00.0 "
    "total=24564 reserved=364 used=1200 util=37 temp=61 power=312 limit=450"
)
RTX_4090_B = "gpu uuid=GPU-4090-b name=NVIDIA_GeForce_RTX_4090 pci=00000000:41:00.0 total=24564 reserved=364 used=0"
A100 = "gpu uuid=GPU-a100 name=NVIDIA_A100-SXM4-40GB pci=00000000:81:00.0 total=40960 reserved=600 used=0 temp=33 ecc=1"


def look(tmp_path: Path, root: Path | None = None, nvml_wait_s: float = 30.0) -> NodeFacts:
    """Probe with a /sys, /proc and /dev that hold only what the test put there."""
    empty = tmp_path / "root"
    empty.mkdir(exist_ok=True)
    return probe(NodeName("n1"), tmp_path, root=root or empty, nvml_wait_s=nvml_wait_s)


def put_card(root: Path, address: str, driver: str = "nvidia", kind: str = "0x030000", vendor: str = "0x10de") -> None:
    device = root / "sys/bus/pci/devices" / address
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    (root / "sys/bus/pci/drivers" / driver).mkdir(parents=True, exist_ok=True)
    (device / "driver").symlink_to(root / "sys/bus/pci/drivers" / driver)


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
