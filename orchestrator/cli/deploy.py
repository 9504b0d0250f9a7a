"""`ollamactl deploy`, `rollback` and `destroy`: what would change is shown, agreed to, done and followed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import click

from orchestrator.app import deployments
from orchestrator.app.deploying import Deploying, Report
from orchestrator.app.live_settings import Wish, resolve_settings
from orchestrator.app.paths import StatePaths
from orchestrator.app.proposing import Proposal
from orchestrator.app.rollout import Ended
from orchestrator.app.running import now_unix_ms
from orchestrator.app.visits import BRINGS_NONE, in_words, visits
from orchestrator.cli.difference import draw_proposal, propose_on_hosts
from orchestrator.cli.output import console, errors, fail, literal
from orchestrator.cli.screen import TerminalScreen
from orchestrator.cli.up import run_up
from orchestrator.core.deployment import Deployment, last_good
from orchestrator.core.difference import Existing, difference
from orchestrator.core.errors import HostError, SettingsError
from orchestrator.core.model import NodeName
from orchestrator.nodes.state_lock import read_holder
from orchestrator.settings import ClusterSettings

EXIT_NOT_AGREED, EXIT_INTERRUPTED = 2, 130
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for."""

    state: Path
    config: Path | None
    limit: tuple[str, ...] = ()
    is_agreed: bool = False
    is_dry: bool = False
    take_over: bool = False

    @property
    def paths(self) -> StatePaths:
        return StatePaths(self.state.absolute())

    @property
    def wish(self) -> Wish:
        return Wish(self.state.absolute(), self.config.absolute() if self.config else None, None, None, None)


def run_deploy(asked: Asked) -> int:
    """Show what would change, have it agreed to, and make it so. Raises OrchestratorError."""
    settings = _settings(asked)
    with deployments.deploying(asked.paths):
        proposal = asyncio.run(propose_on_hosts(asked.paths, settings, asked.limit, take_over=asked.take_over))
        draw_proposal(proposal)
        if proposal.refused:
            fail("not every model finds a place; nothing was deployed", 1)
        if asked.is_dry:
            return 0 if proposal.is_empty else EXIT_NOT_AGREED
        is_done = proposal.is_empty and proposal.current is not None and proposal.current.is_good
        if is_done and read_holder(asked.state) is not None:
            return 1 if proposal.unreachable else 0
        if not proposal.is_empty:
            _have_agreed(asked, "deploy this?")
        _have_cluster(asked)
        return max(_done(_apply(asked, settings, proposal)), 1 if proposal.unreachable else 0)


async def _apply(asked: Asked, settings: ClusterSettings, proposal: Proposal) -> Report:
    ways = await visits(settings, asked.paths, take_over=asked.take_over)
    deploying = Deploying(settings, asked.paths, ways, screen := TerminalScreen())
    try:
        if proposal.is_empty and proposal.current is not None:
            return await deploying.resume(proposal.current)
        return await deploying.run(proposal)
    finally:
        screen.close()


def run_rollback(asked: Asked) -> int:
    """Deploy once more what was good last, before the deployment in force. Raises OrchestratorError."""
    settings = _settings(asked)
    with deployments.deploying(asked.paths):
        history = deployments.history(asked.paths)
        good = last_good(history)
        if good is None:
            raise HostError("there is no earlier deployment of which every instance has served: nothing to go back to")
        known = {each.name for each in settings.nodes}
        if gone := sorted({each.node for each in good.placements} - known):
            raise HostError(
                f"deployment {good.number} has instances on {', '.join(gone)}, not in the settings any more"
            )
        console.print(f"back to deployment {good.number}, made by {literal(good.made_by)}: {_told(history[-1], good)}")
        _have_agreed(asked, "roll back?")
        _have_cluster(asked)
        has_other = good.program != history[-1].program
        work = _put_in_force(asked, settings, _again(good, history[-1].number + 1), has_other_program=has_other)
        return _done(work)


def run_destroy(asked: Asked, *, with_models: bool) -> int:
    """Stop every instance, and take our part of each host away. Raises OrchestratorError."""
    settings = _settings(asked)
    nodes = [NodeName(each.name) for each in settings.hosts if not asked.limit or each.name in asked.limit]
    if unknown := sorted(set(asked.limit) - set(nodes)):
        raise SettingsError(f"--limit {unknown[0]}: no host of that name")
    with deployments.deploying(asked.paths):
        current = deployments.current(asked.paths)
        left = tuple(each for each in current.placements if asked.limit and each.node not in nodes) if current else ()
        leaving = len(current.placements) - len(left) if current is not None else 0
        models = "; models are deleted, too" if with_models else "; models stay"
        console.print(f"[red]−[/red] {leaving} instances, and what was installed on {', '.join(nodes)}{models}")
        _have_agreed(asked, "destroy this?")
        code = 0
        if current is not None and leaving:
            _have_cluster(asked)
            code = _done(_put_in_force(asked, settings, _again(replace(current, placements=left), current.number + 1)))
        return max(code, _interruptible(_remove(asked, settings, nodes, with_models=with_models)))


async def _remove(asked: Asked, settings: ClusterSettings, nodes: list[NodeName], *, with_models: bool) -> int:
    """Take away what was installed; exit code 1 where a host did not let us."""
    ways = await visits(settings, asked.paths, take_over=asked.take_over, of=BRINGS_NONE)
    screen = TerminalScreen()

    async def remove(node: NodeName) -> bool:
        try:
            await ways.remove_base(
                node,
                with_models=with_models,
                on_step=lambda step: screen.tell(f"{step.node}: {in_words(step)}") if step.is_changed else None,
            )
        except HostError as why:
            screen.warn(str(why))
            return False
        return True

    done = await asyncio.gather(*(remove(each) for each in nodes))
    return 0 if all(done) else 1


async def _put_in_force(
    asked: Asked, settings: ClusterSettings, deployment: Deployment, *, has_other_program: bool = False
) -> Report:
    ways = await visits(settings, asked.paths, take_over=asked.take_over, of=deployment)
    screen = TerminalScreen()
    try:
        deploying = Deploying(settings, asked.paths, ways, screen)
        return await deploying.put_in_force(deployment, has_other_program=has_other_program)
    finally:
        screen.close()


def _again(deployment: Deployment, number: int) -> Deployment:
    return replace(
        deployment,
        number=number,
        made_at_unix_ms=now_unix_ms(),
        made_by=deployments.who(),
        is_good=False,
        is_stage=False,
    )


def _told(now: Deployment, then: Deployment) -> str:
    running = [Existing(each, now.terms.get(each.pool, "")) for each in now.placements]
    return difference(running, then.placements, then.terms).summary()


def _settings(asked: Asked) -> ClusterSettings:
    """The settings of a fleet. Raises SettingsError where there is none."""
    settings = asyncio.run(resolve_settings(asked.wish)).settings
    if not settings.hosts:
        raise SettingsError(
            "no host to deploy to: the configuration names none that is reached over SSH; add one with "
            "`ollamactl nodes add NAME --host HOST`, or start a cluster on this machine with `ollamactl up`"
        )
    return settings


def _have_agreed(asked: Asked, question: str) -> None:
    """Ask, unless it was agreed to before; the program ends where it is not."""
    if asked.is_agreed:
        return
    if not sys.stdin.isatty():
        fail("nobody is here to agree to that; say so with --yes", EXIT_NOT_AGREED)
    if not click.confirm(question):
        fail("nothing was changed", EXIT_NOT_AGREED)


def _have_cluster(asked: Asked) -> None:
    """A cluster that runs from the state folder: one is started where there is none."""
    holder = read_holder(asked.state)
    if holder is not None and holder.endpoint:
        return
    console.print(f"no cluster runs with --state {asked.state}: starting one", soft_wrap=True)
    if run_up(asked.wish, detach=True):
        fail("the cluster did not start; nothing was deployed", 1)


def _interruptible(work: Coroutine[object, object, _T]) -> _T:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        fail("interrupted; what was begun is finished by the controller or by the next run", EXIT_INTERRUPTED)


def _done(work: Coroutine[object, object, Report]) -> int:
    """Tell how it ended."""
    report = _interruptible(work)
    for text in report.answers:
        console.print(f"[green]✓[/green] {literal(text)}", soft_wrap=True)
    for text in (*report.wrong, *report.failed.values()):
        errors.print(f"[red]✗[/red] {literal(text)}", soft_wrap=True)
    course = report.course
    if report.is_good:
        console.print(f"[bold green]deployment {report.number} serves[/bold green]: {course.serving} instances")
        return 0
    for text in course.unreachable.values() if report.ended is not Ended.WHOLE else ():
        errors.print(f"[red]✗[/red] {literal(text)}", soft_wrap=True)
    if course.silent:
        errors.print(
            f"[red]✗[/red] they come back with their host: {literal(', '.join(course.silent))}", soft_wrap=True
        )
    for text in course.late:
        errors.print(f"[red]✗[/red] {literal(text)}", soft_wrap=True)
    errors.print(
        f"[red]deployment {report.number} does not serve whole[/red]: {course.serving} of {course.total} instances do, "
        "and go on; the controller keeps trying, `ollamactl status` and `events` tell, `rollback` goes back",
        soft_wrap=True,
    )
    return 1
