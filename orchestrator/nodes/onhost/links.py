"""How near the GPUs of a host are to each other: the PCIe path between two of them, and their NVLinks."""

from __future__ import annotations

from itertools import combinations
from typing import Any

# nvmlGpuTopologyLevel_t of nvml.h, in the words of `nvidia-smi topo --matrix`'s legend.
PATHS = {
    0: "same board",
    10: "one PCIe switch",
    20: "several PCIe switches",
    30: "PCIe host bridge",
    40: "same NUMA node",
    50: "across NUMA nodes",
}
MOST_NVLINKS = 18  # of one GPU (Hopper, Blackwell)


def links_between(nvml: Any, cards: list[tuple[str, str | None, Any]]) -> list[dict[str, Any]]:
    """One entry for each pair of cards (UUID, PCI address, handle) that the driver can tell something about.

    Raises nothing of NVML's: where cards are is no reason to do without them.
    """
    peers = {uuid: _nvlink_peers(nvml, handle) for uuid, _, handle in cards} if len(cards) > 1 else {}
    found = []
    for (uuid, _, handle), (other, other_pci, other_handle) in combinations(cards, 2):
        path = _asked(nvml, lambda a=handle, b=other_handle: nvml.nvmlDeviceGetTopologyCommonAncestor(a, b))
        nvlinks = sum(peer == other_pci for peer in peers[uuid] if other_pci is not None)
        if path is not None or nvlinks:
            found.append({"uuids": [uuid, other], "path": PATHS.get(path, "unknown"), "nvlinks": nvlinks})
    return found


def _nvlink_peers(nvml: Any, handle: Any) -> list[str]:
    """The PCI address at the other end of each NVLink that is up."""
    peers = []
    for link in range(MOST_NVLINKS):
        state = _asked(nvml, lambda n=link: nvml.nvmlDeviceGetNvLinkState(handle, n))
        if state is None:  # no such link, and none after it
            break
        if state:
            info = _asked(nvml, lambda n=link: nvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, n))
            peers += [] if info is None else [pci_address(info.busId)]
    return peers


def pci_address(bus_id: Any) -> str:
    """The address as the system writes it: NVML's domain has eight digits, that of sysfs and lspci four."""
    text = bus_id.decode() if isinstance(bus_id, bytes) else str(bus_id)
    domain, _, rest = text.lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"


def _asked(nvml: Any, way: Any) -> Any:
    try:
        return way()
    except nvml.NVMLError:
        return None
