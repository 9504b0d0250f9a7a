"""Programs for hosts: sent as they are to a host where this user may do everything, asked of the host's own program
where the host is restricted to it.

Knows how a program gets there. What it is asked, and what it answers, is between those who send it and `onhost`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncssh

from orchestrator.nodes.host_program import version
from orchestrator.nodes.onhost.policy import REFUSED, VERSION
from orchestrator.nodes.probe import PROGRAM
from orchestrator.nodes.ssh import HOST_PROGRAM, SUDO, Rights, SshError, SshHost

STEP: Final = "version"
# What a restricted host has itself.
_CODE: Final = ("boot", "reader", "root")
_PACKAGE: Final = "orchestrator."


class RefusedError(SshError):
    """The host's own program will do nothing for us: it is of another version, or something there is not as it must."""


def packed(bundle: Mapping[str, Any]) -> bytes:
    """A bundle as programs read it from their standard input: a count of bytes, and so many of compressed JSON."""
    content = zlib.compress(json.dumps(bundle).encode())
    return b"%d\n" % len(content) + content


@asynccontextmanager
async def program_on(
    host: SshHost, bundle: Mapping[str, Any], *, step: str, sudo: bool = True
) -> AsyncIterator[asyncssh.SSHClientProcess[bytes]]:
    """The program of `bundle` for as long as the block runs; as root, or where it can do without `sudo` as who logs in.

    Raises SshError.
    """
    if await host.rights() is Rights.RESTRICTED:
        asked = {name: value for name, value in bundle.items() if name not in _CODE and not name.startswith(_PACKAGE)}
        given = asked_there(**{**asked, "main": str(bundle["main"]).rpartition(".")[2]})
        async with host.started((*SUDO, *HOST_PROGRAM), step=step, given=given) as process:
            yield process
    else:
        async with host.started(PROGRAM, step=step, given=packed(bundle), sudo=sudo) as process:
            yield process


async def as_root(host: SshHost, argv: Sequence[str], main: str, **asked: Any) -> tuple[tuple[str, ...], bytes]:
    """The words and the input of a command that root runs there: `argv`, or what the host's own program has for it.

    Raises SshError where this user can have nothing run by root.
    """
    if await host.rights() is Rights.RESTRICTED:
        return (*SUDO, *HOST_PROGRAM), asked_there(main=main, **asked)
    return (*await host.become(), *argv), b""


def asked_there(**asked: Any) -> bytes:
    """What the program of a restricted host reads."""
    return packed({"version": version(), **asked})


async def check_version(host: SshHost) -> None:
    """Raises RefusedError where the host is restricted to a program of another version; SshError where it is silent."""
    if await host.rights() is Rights.RESTRICTED:
        told = await host.run((*SUDO, *HOST_PROGRAM), step=STEP, given=asked_there(main=VERSION), check=False)
        if told.status:
            kind = RefusedError if is_refusal(told.status) else SshError
            raise kind(host.node, STEP, f"{STEP}: {told.last_words}")


def is_refusal(status: int | None) -> bool:
    """Whether a program ended because it may not do what it was asked; its last words say what and why."""
    return status == REFUSED
