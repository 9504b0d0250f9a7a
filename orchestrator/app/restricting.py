"""Hosts restricted to what is done with instances: who logs in there may start one program as root, and nothing else.

What is done on the host is `nodes/restricting.py`'s; here it is prepared, done in order, and tried.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from orchestrator.app.visits import Visits
from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeName
from orchestrator.fleet.hostbase import texts_of
from orchestrator.nodes.hoststeps import Step, run
from orchestrator.nodes.restricting import RULE, Restriction, install, remove
from orchestrator.nodes.sending import check_version
from orchestrator.nodes.ssh import HOST_PROGRAM, Rights, SshAddress, SshHost, connected


def admin_of(ways: Visits, node: NodeName, by: str | None, key: Path | None) -> SshAddress:
    """Where, and as whom, somebody logs in who may do everything there; by default as always."""
    usual = ways.address(node)
    return replace(usual, user=by or usual.user, key=key or usual.key)


async def restriction_of(ways: Visits, node: NodeName) -> Restriction:
    """What the host is to be restricted to, by the settings and by what it sees of who logs in. Raises HostError."""
    wanted = ways.wanted(node)
    async with ways.connected(node) as host:
        who = await host.run(("id", "-un"), step="who am I")
        texts = await texts_of(host, wanted)
    found = Restriction(node, who.out.decode().strip(), wanted.user, wanted.models_dir, texts)
    found.files()  # what cannot be is said before anything is done
    return found


async def restrict(ways: Visits, restriction: Restriction, admin: SshAddress) -> tuple[str, ...]:
    """Have the host restricted, and try that it is; the files that changed. Raises HostError."""
    node = NodeName(restriction.node)
    async with connected(admin, ways.reach.keys, ways.reach.waits) as host:
        await host.become()
        await _have_ground(host, restriction)
        changed = await install(host, restriction)
    async with ways.connected(node) as host:
        await _check(host, restriction)
    return changed


async def unrestrict(ways: Visits, admin: SshAddress) -> tuple[str, ...]:
    """Take the restriction away; the files that were there. Raises HostError."""
    async with connected(admin, ways.reach.keys, ways.reach.waits) as host:
        await host.become()
        return await remove(host)


async def _have_ground(host: SshHost, restriction: Restriction) -> None:
    """The user and the folders: afterwards that of the models is not made everywhere (`onhost/restricted.py`)."""
    folders = {"user": restriction.user, "models_dir": restriction.models_dir}
    steps = (
        Step("system", "system"),
        Step("user", "user", {"user": restriction.user}),
        Step("folders", "folders", folders),
    )
    async with aclosing(run(host, steps)) as saying:
        async for _ in saying:
            pass
    # Ollama's program is tried as this user, whoever sends it.
    may = await host.run(("sudo", "-n", "-l", "-U", restriction.user), step="sudo", check=False, sudo=True)
    if may.status == 0 and b"not allowed to run sudo" not in may.out:
        raise HostError(
            f"{host.node}: `deploy.user` {restriction.user} may use sudo there, and what is deployed runs as him: "
            f"take its rules away (`sudo -l -U {restriction.user}`), or name another"
        )


async def _check(host: SshHost, restriction: Restriction) -> None:
    match await host.rights():
        case Rights.RESTRICTED:
            await check_version(host)
            listed = (await host.run(("sudo", "-n", "-l"), step="sudo")).out.decode(errors="replace").split()
            if listed[-len(HOST_PROGRAM) :] != list(HOST_PROGRAM):
                raise HostError(
                    f"{host.node}: a rule that comes after {RULE} lets {restriction.account} do more: `sudo -l -U "
                    f"{restriction.account}` there shows it; take it away"
                )
        case Rights.NONE:
            raise HostError(
                f"{host.node}: sudo there does not read {RULE}: have /etc/sudoers end with `@includedir /etc/sudoers.d`"
            )
        case _:
            raise HostError(
                f"{host.node}: {restriction.account} may still do everything: `sudo -l -U {restriction.account}` there "
                f"shows the rule that comes after {RULE}; take it away"
            )
