"""What is deployed, as the controller keeps it: the deployment in force, what stands for what was lost, and whose.

A place that was found for a lost instance is kept in the state folder, for that deployment: what comes back later
finds its place taken, and nothing moves to and fro.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import orjson
from pydantic import TypeAdapter, ValidationError

from orchestrator.app import deployments
from orchestrator.app.paths import StatePaths
from orchestrator.app.resized import keep
from orchestrator.core.deployment import Deployment
from orchestrator.core.errors import HostError
from orchestrator.core.model import (
    Demand,
    Event,
    InstanceId,
    Moment,
    NodeFacts,
    Placement,
    PlacementPlan,
    PoolName,
)
from orchestrator.core.numbers import Followed
from orchestrator.fleet.order import Order
from orchestrator.fleet.resizing import resized
from orchestrator.fleet.sightings import Sightings
from orchestrator.fleet.standing import Standing, Unfit, standing
from orchestrator.fleet.wanted import Wanted, demands_of
from orchestrator.settings import ClusterSettings
from orchestrator.whole_file import write_whole

log = logging.getLogger(__name__)

NOTHING_YET = "nothing is deployed yet: `ollamactl deploy`"

_Moves = dict[InstanceId, Placement]
_MOVES: TypeAdapter[tuple[int, _Moves]] = TypeAdapter(tuple[int, _Moves])


class Deployed:
    """The deployment in force. `record` gets what was moved."""

    def __init__(self, paths: StatePaths, settings: Callable[[], ClusterSettings], record: Callable[[Event], None]):
        self._paths, self._settings, self._record = paths, settings, record
        self._deployment: Deployment | None = None

    @property
    def number(self) -> int:
        """Of the one last taken up; 0: none."""
        return self._deployment.number if self._deployment is not None else 0

    @property
    def placements(self) -> tuple[Placement, ...]:
        """As they were deployed, lost or not."""
        return self._deployment.placements if self._deployment is not None else ()

    def terms(self, pool: PoolName) -> str:
        """What its instances are started with beyond their placement; '' for a pool that is not deployed."""
        return self._deployment.terms.get(pool, "") if self._deployment is not None else ""

    def kv_type(self, pool: PoolName) -> str:
        """Raises LookupError for a pool that is not deployed."""
        if self._deployment is None:
            raise LookupError(pool)
        return self._deployment.kv_types[pool]

    def order(
        self,
        facts: Sequence[NodeFacts],
        sightings: Sightings,
        cannot_load: Mapping[InstanceId, str],
        followed: Mapping[PoolName, Followed] = MappingProxyType({}),
    ) -> Order:
        """What should run now. `followed`: the numbers that loads ask for within the deployment last taken up.

        Raises HostError for a damaged file.
        """
        before, deployment = self.number, deployments.current(self._paths)
        if deployment is not None and deployment.number == before:
            deployment = self._resized(deployment, facts, sightings, cannot_load, followed)
        self._deployment = deployment
        if deployment is None:
            return Order(None, is_agreed=True, notes=(NOTHING_YET,))
        here = {each.name for each in self._settings().nodes}
        gone = sorted({each.node for each in deployment.placements if each.node not in here})
        moves, unfit, stands = self._standing(deployment, facts, sightings, cannot_load)
        self._keep(deployment, moves, dict(stands.moves), unfit)
        placements = tuple(each for each in stands.placements if each.node in here)
        return Order(
            Wanted(
                PlacementPlan(placements, stands.refused),
                deployment.shapes,
                deployment.terms,
                ranges={PoolName(pool): each for pool, each in deployment.ranges.items() if not deployment.is_stage},
            ),
            deployment=deployment.number,
            is_agreed=True,
            is_done=deployment.is_good,
            unfit=unfit.keys(),
            due=Counter(each.pool for each in deployment.placements),
            notes=tuple(f"{each}: not among the nodes any more; `ollamactl deploy` places anew" for each in gone),
        )

    def serves(self, number: int) -> None:
        """Every instance of that deployment has served."""
        try:
            deployments.mark_good(self._paths, number)
        except HostError as why:
            log.warning("deployment %s is not remembered as good: %s", number, why)

    def _standing(
        self,
        deployment: Deployment,
        facts: Sequence[NodeFacts],
        sightings: Sightings,
        cannot_load: Mapping[InstanceId, str],
    ) -> tuple[_Moves, Mapping[InstanceId, Unfit], Standing]:
        """What was moved before, what is of no use where it is, and what is wanted for it."""
        moves = self._moves(deployment)
        unfit = sightings.unfit((*deployment.placements, *moves.values()), cannot_load)
        limits, user = self._limits(deployment), self._settings().deploy.user
        return moves, unfit, standing(deployment, moves, unfit, facts, limits, user)

    def _resized(
        self,
        deployment: Deployment,
        facts: Sequence[NodeFacts],
        sightings: Sightings,
        cannot_load: Mapping[InstanceId, str],
        followed: Mapping[PoolName, Followed],
    ) -> Deployment:
        """With the numbers that loads ask for, as far as there is room; kept for the next controller, too."""
        numbers = {pool: each.instances for pool, each in followed.items()}
        _, _, stands = self._standing(deployment, facts, sightings, cannot_load)
        here = {each.name for each in self._settings().nodes}
        seen = tuple(each for each in facts if each.node in here)
        limits, user = self._limits(deployment), self._settings().deploy.user
        made = resized(deployment, numbers, stands.placements, seen, limits, user)
        if made.placements != deployment.placements:
            keep(self._paths, made)
        return made

    def _limits(self, deployment: Deployment) -> dict[PoolName, Demand]:
        """Where the settings let pools go; those that they no longer have may go anywhere."""
        settings = self._settings()
        models = {name: model for name, model in settings.models.items() if name in deployment.shapes}
        known = settings.model_copy(update={"models": models})
        return {each.pool: each for each in demands_of(known, deployment.shapes)}

    # --- what stands for what was lost --------------------------------------------------------------------------------

    @property
    def _file(self) -> Path:
        return self._paths.root / "moves.json"

    def _moves(self, deployment: Deployment) -> _Moves:
        """Those of this deployment; an earlier one's are over. Raises HostError for a damaged file."""
        try:
            number, moves = _MOVES.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValidationError, OSError) as why:
            raise HostError(f"{self._file} cannot be read; remove it: what was moved may move once more") from why
        return moves if number == deployment.number else {}

    def _keep(self, deployment: Deployment, before: _Moves, now: _Moves, unfit: Mapping[InstanceId, Unfit]) -> None:
        if before == now:
            return
        try:
            write_whole(self._file, orjson.dumps((deployment.number, now)), mode=0o600)
        except OSError as why:
            raise HostError(f"{self._file} cannot be written: {why.strerror}; nothing is moved") from why
        for name, placement in now.items():
            if before.get(name) != placement:
                text = f"{name} moves: {unfit[name].why}; {placement.instance} on {placement.node} takes its place"
                at_unix_ms = time.time_ns() // 1_000_000
                self._record(Event(at_unix_ms, Moment.MOVED, text, placement.node, name, deployment.number))
