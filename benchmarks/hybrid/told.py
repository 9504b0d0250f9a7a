"""What was measured, as tables, as a plot, and as RESULTS.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Final

from benchmarks.hybrid.setups import Setup
from benchmarks.hybrid.users import Seen
from orchestrator.cli.chart import Chart, Series, write_chart
from orchestrator.core.capacity.carrying import users_carried
from orchestrator.core.capacity.comparing import Play, users_played
from orchestrator.core.capacity.demand import Goals, Load, Mix
from orchestrator.core.capacity.prices import Basis, monthly_usd
from orchestrator.core.capacity.seen import Played, quantile
from orchestrator.core.capacity.simulation import Hour

TIERS: Final = ("cache", "small", "full")
_THOUGHTS: Final = 120  # of a user in the time simulated: an hour of users who think 30 s
_THOUGHTS_SOUGHT: Final = 30  # while each number of users is tried
_POINTS: Final = 200  # of a line of the plot


@dataclass(frozen=True, slots=True)
class Measured:
    """One setup's run. `cluster_cores`, `users_cores`: CPU seconds a second, of all of it and of who asks."""

    setup: Setup
    seen: tuple[Seen, ...]
    seconds: float
    cluster_cores: float
    users_cores: float

    def tier(self, tier: str) -> list[Seen]:
        """Whole answers of a tier; where the model was named, no tier is told, and all are the full model's."""
        return [each for each in self.seen if each.is_whole and (each.tier if each.tier in TIERS else "full") == tier]

    @property
    def failed(self) -> int:
        return sum(not each.is_whole for each in self.seen)


def table(measured: Sequence[Measured], load: Load, seed: int) -> str:
    """Setups side by side, as Markdown."""
    rows: list[tuple[str, ...]] = [
        ("", *(each.setup.name for each in measured)),
        ("---", *("---" for _ in measured)),
        ("RTX 4080 × instances × slots", *(_cards(each.setup) for each in measured)),
        ("before the instances", *(_front(each.setup) for each in measured)),
        ("calls answered (a second)", *(_calls(each) for each in measured)),
        ("calls failed", *(str(each.failed) for each in measured)),
        ("share of cache / small / full", *(_shares(each) for each in measured)),
    ]
    for tier in TIERS:
        goal_s = _goal_s(load.goals, tier)
        label = f"{tier}: p50 / p95 / p99, goal {_time(goal_s)}"
        rows.append((label, *(_quantiles(each.tier(tier), goal_s) for each in measured)))
    rows += [
        ("all: p50 / p95 / p99", *(_quantiles(_whole(each)) for each in measured)),
        ("first token: p50 / p95", *(_firsts(each) for each in measured)),
        ("wait for a slot: mean / p95", *(_waits(each) for each in measured)),
        (f"{load.users} users within the goals", *(_is_kept(each, load.goals) for each in measured)),
        ("users carried, simulated", *(_carried(each.setup, load, seed) for each in measured)),
        ("$/month: cards' rent / documents", *(_usd(each.setup) for each in measured)),
        ("CPU, cores: cluster with played engines / users", *(_cores(each) for each in measured)),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def beside_simulation(measured: Sequence[Measured], load: Load, seed: int) -> str:
    """p50 and p95 by tier, simulated and live."""
    lines = ["| setup | tier | p50 simulated | live | p95 simulated | live |", f"|{' --- |' * 6}"]
    for each in measured:
        if each.setup.is_direct:
            continue  # the simulation has the product's queue
        played = play_of(each.setup, load, seed)
        for tier in ("small", "full"):
            seen, live = played.tier(tier), sorted(call.took_s for call in each.tier(tier))
            if seen is None or not live:
                continue
            p50, p95 = _time(quantile(live, 0.5)), _time(quantile(live, 0.95))
            told = (_time(seen.p50_s), p50, _time(seen.p95_s), p95)
            lines.append(f"| {each.setup.name} | {tier} | {' | '.join(told)} |")
    return "\n".join(lines)


def play_of(setup: Setup, load: Load, seed: int) -> Played:
    """The setup by the simulation of `core/capacity`, with the played engines' physics."""
    return _play(load, _THOUGHTS, seed).of(setup.plan, _asked(setup, load))


def _play(load: Load, thoughts: int, seed: int) -> Play:
    seconds = thoughts * load.think_s
    return Play(Random, seed, Hour(seconds, seconds / 10), is_batch_free=True)


def draw(path: Path, measured: Sequence[Measured], load: Load) -> None:
    """How many of 100 answers are whole within so many seconds."""
    series = tuple(
        Series(each.setup.name, _within(sorted(call.took_s for call in _whole(each))), colour)
        for colour, each in enumerate(measured)
    )
    title = f"{load.users} users who think {load.think_s:g} s: answers whole within so long"
    write_chart(path, Chart(title, "seconds", "% of answers", series, most_y=100.0, is_x_log=True))


def _within(ordered: Sequence[float]) -> tuple[tuple[float, float], ...]:
    parts = [n / _POINTS for n in range(_POINTS + 1)]
    return tuple((max(1e-4, quantile(ordered, part)), 100 * part) for part in parts)


def _asked(setup: Setup, load: Load) -> Load:
    if setup.has_tiers:
        return load
    return Load(
        load.users,
        load.think_s,
        Mix(0.0, 0.0, 1.0),
        load.prompt_tokens,
        load.answer_tokens,
        load.answer_scv,
        goals=load.goals,
    )


def _carried(setup: Setup, load: Load, seed: int) -> str:
    if setup.is_direct:
        return "-"
    asked = _asked(setup, load)
    return str(users_played(setup.plan, asked, users_carried(setup.plan, asked), _play(load, _THOUGHTS_SOUGHT, seed)))


# --- cells -----------------------------------------------------------------------------------------------------------


def _cards(setup: Setup) -> str:
    """Cards, instances on each, and slots of each instance."""
    return " + ".join(
        f"{_model(pool.model)} {pool.cards} × {pool.instances} × {pool.slots}" for pool in setup.plan.pools
    )


def _model(name: str) -> str:
    return "3B" if "3b" in name else "8B"


def _front(setup: Setup) -> str:
    if setup.is_direct:
        return "nginx, least_conn"
    return "gateway: cache, router, queue" if setup.has_tiers else "gateway: queue"


def _calls(each: Measured) -> str:
    whole = len(_whole(each))
    return f"{whole:,} ({whole / each.seconds:.1f})"


def _whole(each: Measured) -> list[Seen]:
    return [call for call in each.seen if call.is_whole]


def _shares(each: Measured) -> str:
    whole = len(_whole(each)) or 1
    return " / ".join(f"{100 * len(each.tier(tier)) / whole:.0f}" for tier in TIERS)


def _quantiles(calls: Sequence[Seen], goal_s: float | None = None) -> str:
    if not calls:
        return "-"
    took = sorted(call.took_s for call in calls)
    said = " / ".join(_time(quantile(took, part)) for part in (0.5, 0.95, 0.99))
    if goal_s is None:
        return said
    return said if quantile(took, 0.95) <= goal_s else f"{said} (late)"


def _firsts(each: Measured) -> str:
    firsts = sorted(call.first_s for call in _whole(each))
    return f"{_time(quantile(firsts, 0.5))} / {_time(quantile(firsts, 0.95))}"


def _waits(each: Measured) -> str:
    """Nobody says how long a call waited inside an instance."""
    if each.setup.is_direct:
        return "in the instances, untold"
    waits = sorted(call.queue_s for call in _whole(each) if call.tier != "cache")
    return f"{_time(fmean(waits))} / {_time(quantile(waits, 0.95))}" if waits else "-"


def _is_kept(each: Measured, goals: Goals) -> str:
    late = [
        tier
        for tier in TIERS
        if (calls := each.tier(tier)) and quantile(sorted(call.took_s for call in calls), 0.95) > _goal_s(goals, tier)
    ]
    if each.failed:
        return "no: calls failed"
    return f"no: {', '.join(late)}" if late else "yes"


def _usd(setup: Setup) -> str:
    rent = sum((monthly_usd(pool.card, Basis.RENT) or 0.0) * pool.cards for pool in setup.plan.pools)
    documents = "-" if setup.documents_usd is None else f"{setup.documents_usd:,.0f}"
    return f"{rent:,.0f} / {documents}"


def _cores(each: Measured) -> str:
    return f"{each.cluster_cores:.2f} / {each.users_cores:.2f}"


def _goal_s(goals: Goals, tier: str) -> float:
    return {"cache": goals.cache_s, "small": goals.small_s, "full": goals.full_s}[tier]


def _time(seconds: float) -> str:
    if seconds < 0.1:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s"
