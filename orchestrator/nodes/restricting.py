"""Makes a host a restricted one: its account may start one program as root, which goes by a policy, and nothing else.

Knows the files of it and how they get there. What the program does is `onhost`'s part (`restricted`, `policy`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import orjson

from orchestrator.core.errors import HostError
from orchestrator.nodes.host_program import host_program
from orchestrator.nodes.onhost import policy, restricted
from orchestrator.nodes.probe import PROGRAM, module_texts
from orchestrator.nodes.remote_probe import ended
from orchestrator.nodes.sending import asked_there, packed
from orchestrator.nodes.ssh import HOST_PROGRAM, SshError, SshHost

STEP: Final = "restrict"
# Read last of all files there: of several rules that fit, the last one holds.
RULE: Final = "/etc/sudoers.d/zz-ollamactl"
PATHS: Final = (policy.PROGRAM, policy.FILE, RULE)
_PACKAGE: Final = "orchestrator.nodes.onhost"
_MAIN: Final = f"{_PACKAGE}.restricting"
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Restriction:
    """What a host is restricted to. `account`: who logs in. `texts`: by step, the one text that it writes, or none."""

    node: str
    account: str
    user: str
    models_dir: str
    texts: Mapping[str, str | None]

    def files(self) -> dict[str, tuple[bytes, int]]:
        """By path, content and mode, in the order in which they are put there. Raises HostError."""
        contents = (host_program(), self.policy().encode(), self.rule().encode())
        return dict(zip(PATHS, zip(contents, (0o755, 0o644, 0o440), strict=True), strict=True))

    def policy(self) -> str:
        """The policy, as its file."""
        if self.user in ("root", self.account):
            raise HostError(
                f"{self.node}: `deploy.user` is {self.user}, and must be a user of its own on a restricted host: what "
                "instances may do would be what this account may"
            )
        digests = {step: None if text is None else _digest(text) for step, text in self.texts.items()}
        told = {"node": self.node, "user": self.user, "models_dir": self.models_dir, "texts": digests}
        return json.dumps(told, indent=2, sort_keys=True) + "\n"

    def rule(self) -> str:
        """The rule of sudo, as its file."""
        if self.account == "root" or not _ACCOUNT.fullmatch(self.account):
            raise HostError(f"{self.node}: {self.account!r} cannot be restricted: name a `user` there that is not root")
        command = " ".join(HOST_PROGRAM)
        return (
            f"# All that {self.account} may do as root. Written by `ollamactl nodes restrict`, which writes it anew.\n"
            f"{self.account} ALL=(ALL:ALL) !ALL\n"
            f"{self.account} ALL=(root) NOPASSWD: NOSETENV: {command}\n"
        )


async def install(host: SshHost, restriction: Restriction) -> tuple[str, ...]:
    """Put it there, as somebody who may do everything; the files that changed. Raises SshError."""
    files = {path: (base64.b64encode(content).decode(), mode) for path, (content, mode) in restriction.files().items()}
    trial = (HOST_PROGRAM, base64.b64encode(asked_there(main=policy.VERSION)).decode())
    return await _done(host, {"files": files, "needs": restricted.TRUSTED, "trial": trial, "is_undo": False})


async def remove(host: SshHost) -> tuple[str, ...]:
    """Take it away again, as somebody who may do everything; the files that were there. Raises SshError."""
    return await _done(host, {"files": dict.fromkeys(PATHS, ("", 0)), "needs": (), "is_undo": True})


async def _done(host: SshHost, asked: Mapping[str, Any]) -> tuple[str, ...]:
    given = packed({"main": _MAIN, "root": "/", **asked, _MAIN: _modules()})
    ran = await host.run(PROGRAM, step=STEP, given=given, sudo=True, check=False)
    if ran.status:
        raise ended(host, STEP, ran.status, ran.err.decode(errors="replace").strip())
    try:
        told = orjson.loads(ran.out)
    except orjson.JSONDecodeError as error:
        raise SshError(host.node, STEP, f"{STEP}: the host printed {ran.out[:200]!r}") from error
    if "error" in told:
        raise SshError(host.node, STEP, f"{STEP}: {told['error']}")
    return tuple(told["changed"])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _modules() -> list[tuple[str, str]]:
    first = ("orchestrator", "orchestrator.nodes", _PACKAGE, "orchestrator.whole_file")
    return module_texts(*first, *(f"{_PACKAGE}.{each}" for each in ("work", "trusted", "restricting")))
