#!/usr/bin/python3
"""What NVIDIA's library says of a host's driver and GPUs, and which NVIDIA cards PCI has without one."""

from __future__ import annotations

import ctypes
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: nvidia_driver_info
short_description: NVIDIA's driver as its library (NVML) tells it
description:
  - Reads the driver's version and the number of GPUs through libnvidia-ml.so.1, and NVIDIA's display controllers off
    PCI. Changes nothing; needs no nvidia-smi.
author: The ollama-orchestrator authors
"""
EXAMPLES = r"""
- name: Look at the driver
  nvidia_driver_info:
  register: driver
"""
RETURN = r"""
version: {description: The driver's version; empty where none answers., type: str, returned: always}
gpus: {description: GPUs that the driver has., type: int, returned: always}
cards: {description: NVIDIA cards that PCI has., type: int, returned: always}
problem: {description: Why no driver answers, type: str, returned: always}
"""

PCI = Path("/sys/bus/pci/devices")
NVIDIA, DISPLAY = "0x10de", "0x03"


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    version, gpus, problem = driver()
    module.exit_json(changed=False, version=version, gpus=gpus, cards=cards(), problem=problem)


def driver():
    """Version, number of GPUs, and what is wrong: one of the first and the last is empty."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "", 0, "there is no libnvidia-ml.so.1"
    if status := nvml.nvmlInitWithFlags(0):
        return "", 0, f"nvmlInitWithFlags answers {status} ({words(nvml, status)})"
    version = ctypes.create_string_buffer(80)
    count = ctypes.c_uint()
    status = nvml.nvmlSystemGetDriverVersion(version, 80) or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    said = words(nvml, status)
    nvml.nvmlShutdown()
    return (version.value.decode(), count.value, "") if not status else ("", 0, f"NVML answers {status} ({said})")


def words(nvml, status: int) -> str:
    nvml.nvmlErrorString.restype = ctypes.c_char_p
    return nvml.nvmlErrorString(status).decode(errors="replace")


def cards() -> int:
    found = [each for each in PCI.glob("*") if read(each / "vendor") == NVIDIA]
    return sum(read(each / "class").startswith(DISPLAY) for each in found)


def read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
