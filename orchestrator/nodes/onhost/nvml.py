"""What NVML says of this host's GPUs, and in plain words what keeps it from saying so.

A sick driver can block a call for ever or take the process down with it, so `gpus` runs this module as a process of its
own, that it can do without: it answers each line it reads with one line of JSON. What the driver does not support is
None. A card that cannot be measured is left out, with a sentence: nothing may be placed on it.
"""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.nodes.onhost.gpus import no_gpus
from orchestrator.nodes.onhost.links import links_between, pci_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    T = TypeVar("T")

LOOK_AT_LOG = "`dmesg | grep -iE 'nvrm|xid'` says why"


class Code(IntEnum):
    """NVML's answers that mean something particular here (nvmlReturn_t of nvml.h)."""

    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    NOT_FOUND = 6
    DRIVER_NOT_LOADED = 9
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    LIB_RM_VERSION_MISMATCH = 18
    ARGUMENT_VERSION_MISMATCH = 25
    DEPRECATED = 26


UNSUPPORTED = frozenset({Code.NOT_SUPPORTED, Code.FUNCTION_NOT_FOUND, Code.ARGUMENT_VERSION_MISMATCH, Code.DEPRECATED})
NO_SUCH_SLICE = frozenset({Code.NOT_FOUND, Code.INVALID_ARGUMENT})
OUT_OF_SERVICE = frozenset({Code.GPU_IS_LOST, Code.RESET_REQUIRED})


class Session:
    """NVML, started at the first look and kept: without persistence mode each start wakes every card."""

    def __init__(self, nvml: Any, root: Path) -> None:
        self._nvml = nvml
        self._root = root
        self._is_open = False

    def read(self) -> dict[str, Any]:
        """Every GPU once. Raises nothing of NVML's; may block or crash where the driver does."""
        cards = pci_addresses(self._root)
        if not self._is_open:
            try:
                self._nvml.nvmlInit()
            except self._nvml.NVMLError as error:
                return no_gpus(_why_no_start(error, _device(self._root, cards)))
            self._is_open = True
        reading = _Reading(self._nvml, self._root)
        accelerators = reading.all_cards(cards)
        driver, cuda = reading.versions()
        if not reading.is_sound:  # a session that the driver gave up on stays so; the next look begins anew
            reading.problems += self.close()
        return {
            "accelerators": accelerators,
            "driver_version": driver,
            "cuda_version": cuda,
            "gpu_links": links_between(self._nvml, reading.handles),
            "problems": reading.problems,
        }

    def close(self) -> list[str]:
        """End the session; a sentence where that failed."""
        if not self._is_open:
            return []
        self._is_open = False
        reading = _Reading(self._nvml, self._root)
        reading.asked_of_host("end of the session", self._nvml.nvmlShutdown)
        return reading.problems


def pci_addresses(root: Path) -> tuple[str, ...]:
    """PCI addresses of NVIDIA's display cards (classes 0300 and 0302), but not those handed to virtual machines."""
    found = []
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor, kind = _line(device / "vendor"), _line(device / "class")
        driver = (device / "driver").resolve().name
        if vendor == "0x10de" and kind.startswith("0x03") and driver != "vfio-pci":
            found.append(device.name)
    return tuple(found)


def _line(path: Path) -> str:
    """The file's text, empty where there is none: a device may leave while it is being read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _device(root: Path, cards: tuple[str, ...]) -> str | None:
    """What shows that this host has a GPU, in words; None for a host without."""
    if cards:
        return f"an NVIDIA GPU at PCI {', '.join(cards)}"
    return "an NVIDIA device file" if any((root / "dev").glob("nvidia[0-9]*")) else None


def _why_no_start(error: Any, device: str | None) -> list[str]:
    """Sentences for an NVML that does not start; none for a host that simply has no GPU (`device` None)."""
    if error.value == Code.LIBRARY_NOT_FOUND and device is None:
        return []
    ways_out = {
        Code.LIBRARY_NOT_FOUND: f"this host has {device}, but NVML (libnvidia-ml.so.1) is not found: install the "
        "NVIDIA driver; in a container, start it with the GPUs (`--gpus all`)",
        Code.DRIVER_NOT_LOADED: "the NVIDIA kernel module is not loaded: run `modprobe nvidia`; where that fails, "
        + LOOK_AT_LOG,
        Code.LIB_RM_VERSION_MISMATCH: "the NVIDIA library and the loaded kernel module are of different versions, as "
        "after an update of the driver: reboot, or reload the nvidia module once nothing uses the GPUs",
        Code.NO_PERMISSION: "the NVIDIA driver may not be used by this user: allow it to read and write /dev/nvidia*; "
        "in a container, start it with the GPUs (`--gpus all`)",
        Code.GPU_IS_LOST: "a GPU has fallen off the bus and NVML does not start without it: power-cycle the host",
        Code.FUNCTION_NOT_FOUND: "the NVIDIA driver is too old: install version 450 or newer",
    }
    otherwise = f"NVML does not start ({error}): {LOOK_AT_LOG}, and a reboot loads the driver anew"
    return [ways_out.get(error.value, otherwise)]


class _Card(NamedTuple):
    handle: Any
    number: int
    name: str
    pci: str | None

    def __str__(self) -> str:
        return f"GPU {self.number} ({self.name}, PCI {self.pci})" if self.pci else f"GPU {self.number} ({self.name})"


class _Reading:
    """One pass over the cards between NVML's init and shutdown, and the problems met on the way."""

    def __init__(self, nvml: Any, root: Path) -> None:
        self._nvml = nvml
        self._root = root
        self.is_sound = True  # False: a question about the host failed
        self.handles: list[tuple[str, str | None, Any]] = []  # of whole cards: UUID, PCI address, handle
        self._processes_untold = False
        self.problems: list[str] = []

    def asked(self, what: str, *ways: Callable[[], T], absent: frozenset[Code] = frozenset()) -> T | None:
        """The answer of the first way that this driver knows, or None; a failure is told and is None as well.

        Raises NVMLError only for a card that is out of service: no question to it has an answer.
        """
        for way in ways:
            try:
                return way()
            except self._nvml.NVMLError as error:
                if error.value in absent:
                    return None
                if error.value in OUT_OF_SERVICE:
                    raise
                if error.value not in UNSUPPORTED:
                    self._tell(what, error)
                    return None
        return None

    def asked_of_host(self, what: str, *ways: Callable[[], T]) -> T | None:
        """As `asked`, where a card out of service must not hide the others: raises nothing of NVML's."""
        try:
            return self.asked(what, *ways)
        except self._nvml.NVMLError as error:
            self.is_sound = False
            self._tell(what, error)
            return None

    def _tell(self, what: str, error: Any) -> None:
        self.problems.append(f'{what}: NVML answers "{error}"; where this stays, {LOOK_AT_LOG}')

    def versions(self) -> tuple[str | None, str | None]:
        """Versions of the driver and of the newest CUDA it runs."""
        nvml = self._nvml
        driver: str | None = self.asked_of_host("version of the driver", nvml.nvmlSystemGetDriverVersion)
        cuda: int | None = self.asked_of_host(
            "version of CUDA", nvml.nvmlSystemGetCudaDriverVersion_v2, nvml.nvmlSystemGetCudaDriverVersion
        )
        if self._processes_untold:
            self.problems.append(
                f"driver {driver or 'of unknown version'} does not say which processes hold VRAM; the VRAM itself is "
                "measured all the same: driver 470 or newer names them"
            )
        return driver, f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda is not None else None

    def all_cards(self, cards: tuple[str, ...]) -> list[dict[str, Any]]:
        """Every accelerator that can be measured. `cards` are the PCI addresses the system knows."""
        found: list[dict[str, Any]] = []
        lost: list[tuple[int, str | None, Any]] = []
        answered: list[str | None] = []
        for index in range(self.asked_of_host("number of GPUs", self._nvml.nvmlDeviceGetCount) or 0):
            pci: str | None = None
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                pci = self._pci(handle, index)
                found += self._accelerators(handle, index, pci)
            except self._nvml.NVMLError as error:
                lost.append((index, pci, error))
            answered.append(pci)
        # NVML may not even say where a lost card is. The system still lists it, among those nobody answered for.
        silent = [each for each in cards if each not in answered]
        nameless = [index for index, pci, _ in lost if pci is None]
        guess = dict(zip(nameless, silent)) if len(nameless) == len(silent) else {}
        self.problems += [_why_left_out(index, pci or guess.get(index), error) for index, pci, error in lost]
        return found

    def _pci(self, handle: Any, index: int) -> str | None:
        """The address as the system writes it: NVML's domain has eight digits, that of sysfs and lspci four."""
        try:
            bus_id = self._nvml.nvmlDeviceGetPciInfo(handle).busId
        except self._nvml.NVMLError as error:
            if error.value not in UNSUPPORTED | OUT_OF_SERVICE:
                self.problems.append(f"GPU {index}: its PCI address cannot be read ({error}): {LOOK_AT_LOG}")
            return None  # a lost card is told of once, when it is asked what it is
        return pci_address(bus_id)

    def _accelerators(self, handle: Any, index: int, pci: str | None) -> list[dict[str, Any]]:
        """The card itself, or its MIG devices where MIG is on: then the card as a whole runs nothing."""
        nvml = self._nvml
        card = _Card(handle, index, nvml.nvmlDeviceGetName(handle), pci)
        self.handles.append((nvml.nvmlDeviceGetUUID(handle), pci, handle))
        mig = self._mig(handle)
        if mig != "on":
            whole = self._whole(card, mig)
            return [] if whole is None else [whole]
        slices = list(self._slices(card))
        if not slices:
            self.problems.append(
                f"{card} has MIG on and no MIG device to run on: make some (`nvidia-smi mig -i {index} -cgi PROFILE "
                f"-C`), or switch MIG off (`nvidia-smi -i {index} -mig 0`)"
            )
        return slices

    def _mig(self, handle: Any) -> str:
        try:
            is_on = self._nvml.nvmlDeviceGetMigMode(handle)[0]
        except self._nvml.NVMLError as error:
            if error.value in UNSUPPORTED:
                return "unsupported"
            raise  # a card that may be in slices must not be offered as a whole
        return "on" if is_on else "off"

    def _whole(self, card: _Card, mig: str) -> dict[str, Any] | None:
        nvml, handle = self._nvml, card.handle
        memory = self._memory(handle, str(card))
        if memory is None:
            return None
        milliwatts = self.asked(f"{card}: power", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        limit_milliwatts = self.asked(
            f"{card}: power limit",
            lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle),
            lambda: nvml.nvmlDeviceGetPowerManagementLimit(handle),
        )
        return dict(
            uuid=nvml.nvmlDeviceGetUUID(handle),
            index=card.number,
            name=card.name,
            vram_total_bytes=memory.total,
            vram_free_bytes=memory.free,
            vram_used_bytes=memory.used,
            processes=self._processes(handle, str(card)),
            utilisation_percent=self.asked(
                f"{card}: utilisation", lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            ),
            temperature_c=self.asked(
                f"{card}: temperature",
                lambda: int(nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU)),
                lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            ),
            power_w=None if milliwatts is None else milliwatts / 1000,
            power_limit_w=None if limit_milliwatts is None else limit_milliwatts / 1000,
            mig=mig,
            ecc=self._ecc(card),
            **self._seat(card),
        )

    def _slices(self, card: _Card) -> Iterator[dict[str, Any]]:
        """The card's MIG devices. Power, temperature and utilisation are the card's alone, so here they are None."""
        nvml = self._nvml
        parent_uuid, ecc, seat = nvml.nvmlDeviceGetUUID(card.handle), self._ecc(card), self._seat(card)
        count = self.asked(f"{card}: number of MIG devices", lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(card.handle))
        for position in range(count or 0):
            where = f"{card}, MIG device {position}"
            handle = self.asked(
                where, partial(nvml.nvmlDeviceGetMigDeviceHandleByIndex, card.handle, position), absent=NO_SUCH_SLICE
            )
            memory = None if handle is None else self._memory(handle, where)
            if handle is None or memory is None:
                continue
            yield dict(
                uuid=nvml.nvmlDeviceGetUUID(handle),
                index=card.number,
                name=nvml.nvmlDeviceGetName(handle),
                vram_total_bytes=memory.total,
                vram_free_bytes=memory.free,
                vram_used_bytes=memory.used,
                processes=self._processes(handle, where),
                mig="on",
                ecc=ecc,
                parent_uuid=parent_uuid,
                **seat,
            )

    def _memory(self, handle: Any, where: str) -> Any | None:
        """Total, free and used VRAM. Version 2 first: version 1 counts what the driver keeps for itself as used."""
        nvml = self._nvml
        memory = self.asked(
            f"{where}: VRAM",
            lambda: nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2),
            lambda: nvml.nvmlDeviceGetMemoryInfo(handle),
        )
        if memory is None:
            self.problems.append(
                f"{where} is left out, as its driver does not say how much VRAM is free; where a GPU shares the host's "
                "memory, serve from the CPU instead"
            )
        return memory

    def _processes(self, handle: Any, where: str) -> list[dict[str, Any]]:
        nvml = self._nvml
        compute = self.asked(
            f"{where}: list of compute processes",
            lambda: nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle),
            lambda: nvml.nvmlDeviceGetComputeRunningProcesses_v2(handle),
        )
        graphics = self.asked(
            f"{where}: list of graphics processes",
            lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle),
            lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses_v2(handle),
        )
        self._processes_untold |= compute is None and graphics is None
        return merge_processes((each.pid, each.usedGpuMemory) for each in [*(compute or ()), *(graphics or ())])

    def _seat(self, card: _Card) -> dict[str, Any]:
        """Where in the host the card sits, and how wide its way to the host is at its best."""
        nvml, handle = self._nvml, card.handle
        node = "" if card.pci is None else _line(self._root / "sys/bus/pci/devices" / card.pci / "numa_node")
        return {
            "pci": card.pci,
            "numa_node": int(node) if node.isdecimal() else None,  # -1: the board does not say
            "pcie_generation": self.asked(f"{card}: PCIe", lambda: nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle)),
            "pcie_width": self.asked(f"{card}: PCIe", lambda: nvml.nvmlDeviceGetMaxPcieLinkWidth(handle)),
        }

    def _ecc(self, card: _Card) -> str:
        mode = self.asked(f"{card}: ECC mode", lambda: self._nvml.nvmlDeviceGetEccMode(card.handle)[0])
        return "unsupported" if mode is None else "on" if mode else "off"


def merge_processes(held: Iterable[tuple[int, int | None]]) -> list[dict[str, Any]]:
    """One entry a pid. A process that computes and draws is in both lists with all it holds, so the larger counts."""
    by_pid: dict[int, int | None] = {}
    for pid, vram in held:
        known = by_pid.get(pid)
        by_pid[pid] = vram if known is None else known if vram is None else max(known, vram)
    return [{"pid": pid, "vram_bytes": by_pid[pid]} for pid in sorted(by_pid)]


def _why_left_out(index: int, pci: str | None, error: Any) -> str:
    which = f"GPU at PCI {pci}" if pci else f"GPU {index}"
    if error.value == Code.GPU_IS_LOST:
        return f"{which} has fallen off the bus; it is left out; power-cycle the host"
    if error.value == Code.RESET_REQUIRED:
        return f"{which} must be reset; it is left out; stop what uses it and run `nvidia-smi --gpu-reset -i {index}`"
    return f"{which} does not answer ({error}); it is left out; {LOOK_AT_LOG}, and a reboot may bring it back"


def serve(root: Path) -> None:
    """Answer each line of the standard input with what the GPUs are then; the input's end ends the session."""
    import pynvml  # only this process needs it: 8,000 lines that load a driver library

    session = Session(pynvml, root)
    try:
        while sys.stdin.buffer.readline():
            sys.stdout.write(json.dumps(session.read()) + "\n")
            sys.stdout.flush()
    finally:
        session.close()


def main(bundle: dict[str, Any]) -> None:
    """As `remote` starts it on another host."""
    serve(Path(bundle["root"]))


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
