"""Playbooks run as an operator runs them: a process, an inventory, real hosts over real SSH."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = ROOT / "ansible"
PROGRAMS = Path(sys.executable).parent
CHANGED = re.compile(r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ran:
    """How a playbook ended, by host: tasks that changed something, and those that failed."""

    text: str
    changed: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def changes(self) -> list[str]:
        """The tasks that changed something, for whoever reads a failed test."""
        task, found = "", []
        for line in self.text.splitlines():
            if line.startswith(("TASK", "RUNNING HANDLER")):
                task = line.strip("* ")
            elif line.startswith("changed:"):
                found.append(f"{task} {line}")
        return found


@dataclass(frozen=True, slots=True)
class Control:
    """The machine that runs Ansible: its files lie in `folder`, and so do the sockets of its SSH connections."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        return kept | {
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.sockets),
            "ANSIBLE_NOCOLOR": "1",
            "OLLAMACTL_CONFIG": str(self.folder / "cluster.yaml"),
            "OLLAMACTL_STATE": str(self.folder),
        }

    @property
    def sockets(self) -> Path:
        return self.folder / "cp"

    def play(self, *words: str) -> Ran:
        """Run site.yml over both inventories, and have it end well."""
        inventories = ("--inventory", "inventory", "--inventory", str(self.folder / "hosts.yml"))
        done = self.run("ansible-playbook", *inventories, "site.yml", *words)
        told = CHANGED.findall(done.stdout)
        failed = {host: int(unreached) + int(failed) for host, _, unreached, failed in told}
        return Ran(done.stdout + done.stderr, {host: int(changed) for host, changed, _, _ in told}, failed)

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(PROGRAMS / program), *words]
        return subprocess.run(
            command, cwd=ANSIBLE, env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    def hang_up(self) -> None:
        """End the connections that Ansible keeps for its next run."""
        for each in self.sockets.glob("*"):
            subprocess.run(["ssh", "-o", f"ControlPath={each}", "-O", "exit", "-"], capture_output=True, check=False)
