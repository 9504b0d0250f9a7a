"""Two hosts for all tests of this folder: booted once, when the first of them asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.bases import strip
from tests.hosts.machines import Machine, Network, network, why_not
from tests.nodes.conftest import nvml_libraries as nvml_libraries

TWO_4090 = """\
driver 550.54.15
cuda 12040
gpu uuid=GPU-4090-a name=NVIDIA_GeForce_RTX_4090 pci=00000000:01:00.0 total=24564 reserved=364 used=0 util=3 temp=41 \
power=25 limit=450
gpu uuid=GPU-4090-b name=NVIDIA_GeForce_RTX_4090 pci=00000000:41:00.0 total=24564 reserved=364 used=0 util=0 temp=39 \
power=22 limit=450
link a=0 b=1 path=40
"""
A100_IN_SLICES = """\
driver 550.54.15
cuda 12040
gpu uuid=GPU-a100 name=NVIDIA_A100-SXM4-40GB pci=00000000:81:00.0 total=40960 reserved=600 used=0 temp=33 power=60 \
limit=400 ecc=1 mig=1
mig uuid=MIG-3g-a gpu=0 position=0 name=NVIDIA_A100-SXM4-40GB_MIG_3g.20gb total=19968 reserved=0 used=0
mig uuid=MIG-3g-b gpu=0 position=1 name=NVIDIA_A100-SXM4-40GB_MIG_3g.20gb total=19968 reserved=0 used=0
"""
CARDS = {"gpu-1": TWO_4090, "gpu-2": A100_IN_SLICES}
PLAYED = {"gpu-1": "RTX 4090", "gpu-2": "A100-40GB"}  # by their `ollama`


@pytest.fixture(scope="session")
def host_network(tmp_path_factory: pytest.TempPathFactory, nvml_libraries: Path) -> Iterator[Network]:
    if why := why_not():
        pytest.skip(why)
    with network(tmp_path_factory.mktemp("hosts")) as net:
        for name, cards in CARDS.items():
            net.add(name, nvml_libraries / "today" / "libnvidia-ml.so.1", cards).stand_in(card=PLAYED[name])
        for machine in net.machines.values():
            machine.wait_until_up()
        yield net


@pytest.fixture
def hosts(host_network: Network) -> Iterator[Network]:
    """The two hosts, running and with the cards they were born with; so they are left, too."""
    yield host_network
    for name, machine in host_network.machines.items():
        machine.mend()
        if machine.process is None:
            machine.power_on()
        machine.play(CARDS[name])
        machine.stand_in(card=PLAYED[name])


@pytest.fixture
def gpu_1(hosts: Network) -> Machine:
    """2 × RTX 4090."""
    return hosts.machines["gpu-1"]


@pytest.fixture
def gpu_2(hosts: Network) -> Machine:
    """One A100 in two MIG devices."""
    return hosts.machines["gpu-2"]


@pytest.fixture
def bare(hosts: Network) -> Iterator[None]:
    """Hosts without a base, before and after."""
    strip(*hosts.machines.values())
    yield
    strip(*hosts.machines.values())
