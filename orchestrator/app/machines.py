"""The machines of a cluster, as its status tells of them: which gateways there are, which controller leads."""

from __future__ import annotations

import logging
from typing import Any, Final

from orchestrator.app.crewing import member_of
from orchestrator.app.paths import StatePaths
from orchestrator.core.errors import HostError, StoreError
from orchestrator.settings import ClusterSettings
from orchestrator.store.connection import Connection
from orchestrator.store.members import leader, who_is_there

log = logging.getLogger(__name__)

ANSWERS_WITHIN_S: Final = 10.0


async def machines(connection: Connection) -> list[dict[str, Any]]:
    """One entry a place; none where the cluster is one machine with a Redis of its own. Raises StoreError."""
    met, leads = await who_is_there(connection), await leader(connection)
    works_by = {each.member.works_by for each in met if each.kind == "controller" and each.member.place == leads}
    found: dict[str, dict[str, Any]] = {}
    for each in met:
        place, name = each.member.place, each.member.name
        entry = found.setdefault(place, {"name": name, "gateways": 0, "heard_s": None, "controller": "away", "why": ""})
        if each.kind == "gateways":
            entry["gateways"], entry["heard_s"] = each.member.workers, round(each.heard_s, 1)
            continue
        entry["controller"] = "leads" if place == leads else "stands by"
        entry["why"] = each.member.problem
        if not entry["why"] and works_by and each.member.works_by not in works_by:
            entry["why"] = "its cluster.yaml says otherwise of the fleet than that of the machine which leads"
    return sorted(found.values(), key=lambda each: str(each["name"]))


async def check_together(paths: StatePaths, settings: ClusterSettings) -> None:
    """Whether this machine may join those on its Redis. Raises HostError where instances are a machine's own.

    A Redis that does not answer tells nothing; the start itself says so.
    """
    if settings.redis == "embedded":
        return
    connection = Connection(settings.redis, name="start")
    try:
        await connection.open(wait_s=ANSWERS_WITHIN_S)
        met = await who_is_there(connection)
    except StoreError as why:
        log.warning("who works with the same Redis is not known: %s", why)
        return
    finally:
        await connection.close()
    own = member_of(paths, settings, 0)
    for each in (one.member for one in met):
        if each.place != own.place and (own.is_bound or each.is_bound):
            whose = "this machine's" if own.is_bound else "its"
            raise HostError(
                f"{each.name} works with the same Redis, or did a minute ago, and {whose} nodes are `address: local`, "
                "which no other machine reaches: name them as hosts, or give each machine a Redis of its own"
            )
