"""What tests of a host's base say: what it is to have, programs for it, and how it is bare again."""

from __future__ import annotations

import io
import tarfile
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from orchestrator.fleet.hostbase import BaseWanted
from orchestrator.nodes.hoststeps import Owner
from orchestrator.nodes.program_file import program
from orchestrator.nodes.ssh import connected
from orchestrator.nodes.systemd_text import render_firewall, render_template
from tests.hosts.reaching import address, known

USER = "olm"
MODELS = "/srv/base-test/models"
VERSIONS = "/opt/ollamactl/ollama"
PORTS = (11500, 11599)
STEPS = ("system", "owner", "user", "folders", "program", "firewall", "unit")
LEFT = ("/opt/ollamactl", "/etc/ollamactl", "/var/lib/ollamactl-host", "/srv/base-test", "/usr/local/bin/ollama")


# One shell for all of it, where there is anything to do at all.
STRIP = f"""
[ -e /opt/ollamactl ] || [ -e /var/lib/ollamactl-host ] || [ -e /srv/base-test ] || \
[ -e /usr/local/bin/ollama ] || exit 0
systemctl stop runs-from-it.service ollama@theirs.service
systemctl disable --quiet --now ollamactl-firewall.service
nft delete table inet ollamactl
umount /opt/ollamactl
rm -rf {" ".join(LEFT)} /etc/systemd/system/ollama@.service /etc/systemd/system/ollamactl-firewall.service
systemctl daemon-reload
userdel {USER}
exit 0
"""


def strip(*machines) -> None:
    """Take a base away, whatever a test did to it."""
    for each in machines:
        if each.process is None:
            each.power_on()
        each.run("sh", "-c", STRIP)


def script(folder: Path, version: str = "0.33.0", size: int = 0) -> Path:
    """A program of so many bytes that says its version."""
    path = folder / f"ollama-{version}-{size}"
    path.write_bytes(f"#!/bin/sh\necho ollama version is {version}\nexit 0\n".encode().ljust(size, b"#"))
    return path


def archive(folder: Path, of: Path, name: str = "bin/ollama") -> Path:
    path = folder / "ollama-linux-amd64.tgz"
    with tarfile.open(path, "w:gz") as packed:
        packed.add(of, name)
        for lib, content in {
            "lib/ollama/libggml.so.1.2": b"library",
            "lib/ollama/cuda_v12/libggml-cuda.so": b"x",
        }.items():
            member = tarfile.TarInfo(lib)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("lib/ollama/libggml.so")
        link.type, link.linkname = tarfile.SYMTYPE, "libggml.so.1.2"
        packed.addfile(link)
    return path


async def wanted(folder: Path, source: Path | None, number: int = 1, place: str = "prod", **more) -> BaseWanted:
    base = BaseWanted(
        user=USER,
        models_dir=MODELS,
        program=None if source is None else await program(str(source), None, folder / "programs"),
        unit=render_template(USER, MODELS),
        firewall=render_firewall(["127.0.0.1"], PORTS),
        owner=Owner(place, number, "kaan@ctl-1"),
    )
    return replace(base, **more)


@asynccontextmanager
async def host_of(hosts, machine, tmp_path, **more):
    async with connected(address(hosts, machine, **more), known(tmp_path, machine)) as host:
        yield host


def changed(steps) -> dict[str, bool]:
    return {each.step: each.is_changed for each in steps}


def all_files(machine) -> str:
    """Everything that a base could have touched, with owners, modes and times."""
    places = ("/opt/ollamactl", "/etc", "/srv", "/var/lib/ollamactl-host", "/usr/local/bin")
    return machine.run("find", *places, "-printf", "%p %u %m %s %T@ %l\\n", check=False)
