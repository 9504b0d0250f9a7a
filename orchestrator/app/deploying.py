"""`ollamactl deploy`, once it was agreed to: base, models, the deployment written down, and followed until it serves.

It may be cut off anywhere. Until the deployment is written nothing that runs was touched; from then on the controller
brings it about, whoever watches. The next run finds what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from orchestrator.app import deployments, settings_in_use
from orchestrator.app.answering import check_answers
from orchestrator.app.paths import StatePaths
from orchestrator.app.proposing import Proposal
from orchestrator.app.rollout import Ended, follow
from orchestrator.app.running import holder_of, now_unix_ms, read_settings_again, redis_of, tell_controller, works_by
from orchestrator.app.visits import Visits, in_words, is_formal
from orchestrator.core.course import Course
from orchestrator.core.deployment import Deployment, first_stage
from orchestrator.core.difference import without
from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeFacts, NodeName, Placement
from orchestrator.fleet.hostbase import StepDone
from orchestrator.fleet.spreading import Copied, Progress
from orchestrator.settings import ClusterSettings
from orchestrator.store.connection import Connection

# A cluster that runs reads changed settings by itself, within a second or so.
SETTINGS_WITHIN_S, SETTINGS_LOOK_S = 20.0, 0.1
MIB = 2**20


class Screen(Protocol):
    """What the operator is told on the way; `cli` draws it."""

    def step(self, text: str) -> None: ...
    def tell(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Report:
    """How a deployment went. `failed`: hosts whose base could not be made; `wrong`: pools that did not answer."""

    number: int
    ended: Ended
    course: Course
    failed: Mapping[NodeName, str] = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        return self.ended is Ended.WHOLE and not self.failed and not self.wrong


class Deploying:
    """One `deploy` from a cluster that runs."""

    def __init__(self, settings: ClusterSettings, paths: StatePaths, visits: Visits, screen: Screen) -> None:
        self._settings, self._paths, self._visits, self._screen = settings, paths, visits, screen

    async def run(self, proposal: Proposal) -> Report:
        """Make it so. Raises OrchestratorError where nothing was deployed."""
        await self._await_settings()
        failed = await self._make_bases([each for each in self._hosts if each in proposal.base])
        if not failed and proposal.is_in_force and proposal.difference.is_empty and proposal.current is not None:
            return await self.resume(proposal.current)
        whole = self._deployment(proposal, failed)
        facts = await self._visits.facts()
        stage = first_stage(whole, {model.name for node in facts.values() for model in node.models})
        async with redis_of(self._paths, self._settings) as connection:
            if len(stage.placements) < len(whole.placements):
                facts = await self._fetch(connection, stage)
                whole = replace(whole, number=stage.number + 1)
            await self._spread(whole.placements, facts)
            return await self._roll_out(connection, whole, failed)

    async def resume(self, deployment: Deployment) -> Report:
        """Follow a deployment that is in force already, until it serves."""
        async with redis_of(self._paths, self._settings) as connection:
            await tell_controller(self._paths)
            return await self._followed(connection, deployment, {})

    async def put_in_force(self, deployment: Deployment, *, has_other_program: bool = False) -> Report:
        """Deploy placements of before, or none, as they are. Raises OrchestratorError where nothing was deployed."""
        if has_other_program and (failed := await self._make_bases(self._hosts)):
            raise HostError(f"nothing was deployed: not every host has its program: {', '.join(failed)}")
        async with redis_of(self._paths, self._settings) as connection:
            return await self._roll_out(connection, deployment, {})

    # --- hosts --------------------------------------------------------------------------------------------------------

    async def _await_settings(self) -> None:
        """Until the cluster works by the settings that are deployed. Raises HostError."""
        if works_by(self._paths, self._settings):
            return
        self._screen.step("waiting until the cluster works by these settings …")
        read_settings_again(self._paths)
        try:
            async with asyncio.timeout(SETTINGS_WITHIN_S):
                while not works_by(self._paths, self._settings):  # noqa: ASYNC110 - another process writes the file
                    await asyncio.sleep(SETTINGS_LOOK_S)
        except TimeoutError as why:
            raise HostError(
                f"the cluster that runs with --state {self._paths.root} works by other settings: it was started with "
                "another cluster.yaml, or refuses this one (`ollamactl status` says why); nothing was deployed"
            ) from why

    @property
    def _hosts(self) -> list[NodeName]:
        return [NodeName(each.name) for each in self._settings.hosts]

    async def _make_bases(self, nodes: Sequence[NodeName]) -> dict[NodeName, str]:
        """Those of `nodes` that have no base now, and why."""
        if not nodes:
            return {}
        self._screen.step(f"making the base of {', '.join(nodes)} …")
        made = await self._visits.make_bases(self._on_step, self._on_bytes, nodes)
        failed = {each.node: each.error for each in made if each.error}
        for why in failed.values():
            self._screen.warn(why)
        return failed

    def _on_step(self, step: StepDone) -> None:
        if step.is_changed and not is_formal(step):
            self._screen.tell(f"{step.node}: {in_words(step)}")

    def _on_bytes(self, node: NodeName, sent: int, of: int) -> None:
        self._screen.step(f"{node}: {sent // MIB} of {of // MIB} MiB of the program sent")

    def _deployment(self, proposal: Proposal, failed: Collection[NodeName]) -> Deployment:
        """What was agreed to; on hosts without a base, what runs there. Raises HostError."""
        made = proposal.deployment(self._next_number(), now_unix_ms(), deployments.who())
        if not failed:
            return made
        before = proposal.current or Deployment(0, 0, "", ())
        placements = without(proposal.difference, failed)
        for each in placements:
            was, now = before.terms.get(each.pool), made.terms.get(each.pool)
            if each.node in failed and None not in (was, now) and was != now:
                raise HostError(
                    f"nothing was deployed: {each.pool} would be started otherwise on {each.node}, too, and the base "
                    "could not be made there"
                )
        return replace(
            made,
            placements=placements,
            shapes={**before.shapes, **made.shapes},
            terms={**before.terms, **made.terms},
            kv_types={**before.kv_types, **made.kv_types},
        )

    def _next_number(self) -> int:
        current = deployments.current(self._paths)
        return current.number + 1 if current is not None else 1

    # --- models -------------------------------------------------------------------------------------------------------

    async def _fetch(self, connection: Connection, stage: Deployment) -> dict[NodeName, NodeFacts]:
        """Have a model that no host has be fetched by one of them, so that the others copy it. What does not come is
        told; the others then fetch it themselves."""
        fetched = ", ".join(sorted({each.pool for each in stage.placements} - self._known_pools()))
        self._screen.tell(f"fetched by one host, and copied from there: {fetched}")
        report = await self._followed(connection, await self._write(stage), {}, is_stage=True)
        if report.ended is not Ended.WHOLE:
            self._screen.warn(f"not everything was fetched: {report.course.sentence()}")
        return await self._visits.facts()

    def _known_pools(self) -> set[str]:
        current = deployments.current(self._paths)
        return {each.pool for each in current.placements} if current is not None else set()

    async def _spread(self, placements: tuple[Placement, ...], facts: Mapping[NodeName, NodeFacts]) -> None:
        for each in await self._visits.spread(placements, facts, self._on_copy):
            if isinstance(each, Copied):
                self._screen.tell(f"{each.node}: {each.model} copied from {each.source}, {each.size_bytes // MIB} MiB")
            else:
                self._screen.warn(f"{each.error}; {each.node} fetches {', '.join(each.models)} itself")

    def _on_copy(self, progress: Progress) -> None:
        done, total = progress.done // MIB, progress.total // MIB
        self._screen.step(f"{progress.node}: {progress.model}, {done} of {total} MiB copied")

    # --- the rollout --------------------------------------------------------------------------------------------------

    async def _write(self, deployment: Deployment) -> Deployment:
        deployments.write(self._paths, deployment)
        await tell_controller(self._paths)
        return deployment

    async def _roll_out(self, connection: Connection, deployment: Deployment, failed: Mapping[NodeName, str]) -> Report:
        self._screen.tell(f"deployment {deployment.number}: {len(deployment.placements)} instances")
        return await self._followed(connection, await self._write(deployment), failed)

    async def _followed(
        self, connection: Connection, deployment: Deployment, failed: Mapping[NodeName, str], *, is_stage: bool = False
    ) -> Report:
        serve_s, number = self._settings.deploy.serve_s, deployment.number
        ended, course = await follow(connection, self._paths, deployment, serve_s, self._screen.step)
        if is_stage:
            return Report(number, ended, course, failed)
        answers, wrong = await self._answers(deployment, course)
        report = Report(number, ended, course, failed, answers, wrong)
        if report.is_good:
            deployments.mark_good(self._paths, number)
        return report

    async def _answers(self, deployment: Deployment, course: Course) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """One real answer of each pool that serves: those that came, and what came instead of the others."""
        placed = {each.pool for each in deployment.placements} & course.pools
        pools: dict[str, bool] = {each: deployment.shapes[each].is_embedding for each in placed}
        if not pools:
            return (), ()
        key = settings_in_use.asking_key(self._paths)
        self._screen.step("asking each model a question …")
        return await check_answers(holder_of(self._paths).endpoint, pools, key)
