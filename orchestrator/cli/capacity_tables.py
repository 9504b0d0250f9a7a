"""What `ollamactl capacity` says as tables, on a terminal and as Markdown: plans, documents, what-ifs, prices.

Every figure comes from `core/capacity`; predicted and simulated stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import click

from orchestrator.cli.output import console, draw, literal, table
from orchestrator.core.capacity.carrying import Outcome, Plan
from orchestrator.core.capacity.comparing import MARGIN, Compared, Play, is_beyond
from orchestrator.core.capacity.demand import Load, Recorded
from orchestrator.core.capacity.documents import Verdict, figures
from orchestrator.core.capacity.planning import Candidate, WhatIf, Wish
from orchestrator.core.capacity.prices import prices
from orchestrator.core.capacity.service import Pool

PREDICTED: Final = (
    "Predicted from published figures of cards and prices of the days given (`--prices`), not measured and not "
    "simulated; docs/decisions/0019-capacity-model.md has formulas, assumptions and limits."
)
SIMULATED: Final = (
    "Predicted and simulated from published figures of cards and prices of the days given (`--prices`), not measured; "
    "docs/decisions/0019-capacity-model.md and 0037-capacity-checked.md have formulas, assumptions and limits."
)
BURSTY: Final = 4.0  # squared variation of the gaps, beyond which Allen and Cunneen's factor is a guess


@dataclass(frozen=True, slots=True)
class Judged:
    """A plan of the documents as predicted, and, where wanted, as simulated with those promised, and with its most."""

    verdict: Verdict
    at_promise: Compared | None = None
    carried: int | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """All that was found out. `compared`: the first plans of `found`, simulated; none without `play`."""

    load: Load
    wish: Wish
    recorded: Recorded | None
    found: Sequence[Candidate]
    compared: Sequence[Compared]
    judged: Sequence[Judged]
    changed: Sequence[WhatIf]
    play: Play | None
    with_prices: bool

    @property
    def about(self) -> str:
        return PREDICTED if self.play is None else SIMULATED


@dataclass(frozen=True, slots=True)
class Section:
    """A table with its title and the remarks below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()


def print_told(told: Told, *, markdown: bool) -> None:
    """All of it, in its order."""
    sections = [_plans(told)]
    sections += [_cheapest(told.compared[0], told)] if told.compared else []
    sections += [_documents(told), _figures(told)] if told.judged else []
    sections += [_what_ifs(told.changed)] if told.changed else []
    sections += [_prices()] if told.with_prices else []
    intro = (_asked(told.load, told.wish), *_recorded(told.recorded), *_simulated(told))
    (_print_markdown if markdown else _print_tables)(intro, sections, told.about)


# --- words -----------------------------------------------------------------------------------------------------------


def _asked(load: Load, wish: Wish) -> str:
    mix, goals = load.mix, load.goals
    return (
        f"{load.users} users who think {load.think_s:g} s; {load.prompt_tokens:.0f} tokens asked, "
        f"{load.answer_tokens:.0f} answered; cache {mix.cache:.0%}, {wish.small.name} {mix.small:.0%}, "
        f"{wish.full.name} {mix.full:.0%}; p95 within {goals.cache_s * 1000:.0f} ms / {goals.small_s:g} s / "
        f"{goals.full_s:g} s; {wish.context} tokens a slot; cards by price to {wish.basis.value}"
    )


def _recorded(recorded: Recorded | None) -> tuple[str, ...]:
    if recorded is None:
        return ()
    said = (
        f"recorded: {recorded.rows} calls, {recorded.calls_s:.2f}/s, {recorded.cut:.0%} of the prompts too long "
        f"for a slot; squared variation of answers {recorded.answer_scv:.2f}, of gaps {recorded.arrival_scv:.2f}"
    )
    if recorded.arrival_scv > BURSTY:
        said += ": so bursty that the waits below are a guess"
    return (said,)


def _simulated(told: Told) -> tuple[str, ...]:
    play = told.play
    if play is None:
        return ()
    minutes = play.hour.seconds / 60
    if play.arrivals is not None:
        said = f"simulated: the {len(play.arrivals)} recorded calls at their times, {minutes:.0f} minutes"
        return (f"{said}; predicted: {told.load.users} users who ask as often",)
    said = f"simulated: {minutes:.0f} minutes, longer for few users, seed {play.seed}"
    return (f"{said}; further apart than {MARGIN:.0%} is marked *",)


def _plans(told: Told) -> Section:
    rows = []
    for place, each in enumerate(told.found[:10]):
        played = told.compared[place].played if told.compared else None
        rows.append(
            (
                _pools(each.plan),
                _p95s(each.outcome),
                *((_played_p95s(told.compared[place]),) if played else ()),
                f"{each.outcome.utilisation:.0%}{f' / {played.utilisation:.0%}' if played else ''}",
                f"{each.outcome.calls_s:.2f}",
                f"{each.usd:,.0f}",
                f"{each.usd_a_user:.2f}",
            )
        )
    remarks = [
        "One instance a card. A plan without small cards answers those questions with the full model, to its goal."
    ]
    for each, compared in zip(told.found, told.compared, strict=False):
        remarks += [f"{_pools(each.plan)}: {said}" for said in compared.differs]
        remarks += [] if compared.played.is_within else [f"{_pools(each.plan)}: simulated it does not keep the goals"]
    if not told.found:
        remarks = ["No card of the list keeps these goals: allow longer, ask for less, or a smaller model."]
    simulated = ("simulated",) if told.compared else ()
    busiest = "Busiest slots, predicted / simulated" if told.compared else "Busiest slots"
    columns = ("Plan", "p95 by tier", *simulated, busiest, "Calls/s", "$/month", "$/user")
    return Section("Plans that keep the goals, cheapest first", columns, tuple(rows), tuple(remarks))


def _cheapest(compared: Compared, told: Told) -> Section:
    """The first plan's tiers, both ways."""
    rows = []
    for tier in compared.predicted.tiers:
        seen = compared.played.tier(tier.tier)
        if seen is None:
            continue
        pairs = (
            (tier.p50_s, seen.p50_s),
            (tier.p95_s, seen.p95_s),
            (tier.wait_s, seen.wait_s),
        )
        rows.append(
            (
                tier.tier,
                f"{tier.share:.0%} / {seen.share:.0%}",
                *(f"{predicted:.2f} / {played:.2f} s" for predicted, played in pairs),
                f"{seen.p99_s:.2f} s",
                f"{tier.waits:.0%} / {seen.waits:.0%}",
                f"{tier.utilisation:.0%} / {seen.utilisation:.0%}",
                f"{tier.goal_s:g} s",
            )
        )
    columns = ("Tier", "Share", "p50", "p95", "Mean wait", "p99 simulated", "Have to wait", "Slots at work", "Goal")
    title = f"The cheapest: {_pools(told.found[0].plan)}, predicted / simulated"
    return Section(title, columns, tuple(rows), compared.differs)


def _documents(told: Told) -> Section:
    rows: list[tuple[str, ...]] = []
    remarks: list[str] = []
    for judged in told.judged:
        each, promise = judged.verdict, judged.verdict.promise
        carried = judged.carried if judged.carried is not None else each.carried
        rows.append(
            (
                f"{promise.name}: {promise.hardware}",
                f"{promise.users[0]}-{promise.users[1]}",
                str(each.carried),
                *(() if told.play is None else (_marked(each.carried, judged.carried),)),
                f"{promise.users[1] / carried:.2f}" if carried else "-",
                f"{promise.at_once or '-'} / {each.at_once}",
                _p95s(each.at_promise),
                *(() if judged.at_promise is None else (_played_p95s(judged.at_promise),)),
                f"{each.at_promise.utilisation:.0%}",
                f"{each.usd:,.0f}",
                f"{each.usd / carried:.2f}" if carried else "-",
                "-" if each.rent_usd is None else f"{each.rent_usd:,.0f}",
                str(each.better_carried),
            )
        )
        remarks += [f"{promise.name}: {reason}" for reason in each.reasons]
        remarks += [f"{promise.name}: {said}" for said in _differences(judged)]
    columns = (
        "Plan",
        "Users promised",
        "carried",
        *(() if told.play is None else ("carried, simulated",)),
        "promised / carried",
        "At once promised / carried",
        "p95 with those promised",
        *(() if told.play is None else ("simulated",)),
        "slots",
        "$/month",
        "$/user carried",
        "cards' rent",
        "carried by one instance a card",
    )
    title = f"The documents' plans, users who think {told.load.think_s:g} s"
    return Section(title, columns, tuple(rows), tuple(remarks))


def _differences(judged: Judged) -> list[str]:
    """Where prediction and simulation are further apart than the margin."""
    if judged.at_promise is None or judged.carried is None:
        return []
    said = [f"{judged.at_promise.played.users} users: {each}" for each in judged.at_promise.differs]
    if is_beyond(judged.verdict.carried, judged.carried):
        said.append(f"predicted to carry {judged.verdict.carried} users; simulated {judged.carried} keep the goals")
    return said


def _marked(predicted: int, played: int | None) -> str:
    if played is None:
        return "-"
    return f"{played}{' *' if is_beyond(predicted, played) else ''}"


def _figures(told: Told) -> Section:
    found = figures(told.load, told.wish.small, told.wish.full)
    rows = tuple((each.what, each.said, each.found) for each in found)
    return Section("The documents' single figures", ("Figure", "Said", "Worked out"), rows)


def _what_ifs(changed: Sequence[WhatIf]) -> Section:
    rows: list[tuple[str, ...]] = []
    for each in changed:
        if each.found is None:
            rows.append((each.change, "no card of the list keeps the goals", "-", "-", "-"))
        else:
            usd, a_user = f"{each.found.usd:,.0f}", f"{each.found.usd_a_user:.2f}"
            rows.append((each.change, _pools(each.found.plan), _p95s(each.found.outcome), usd, a_user))
    columns = ("Changed", "Cheapest plan with a small tier", "p95 by tier", "$/month", "$/user")
    return Section("What if", columns, tuple(rows))


def _prices() -> Section:
    rows = tuple(
        (
            each.card.name,
            f"{each.card.vram_bytes / 2**30:.0f} GiB",
            f"{each.card.bandwidth_bytes_s / 1e9:.0f} GB/s",
            f"{each.power_w:.0f} W",
            "-" if each.rent_usd_h is None else f"{each.rent_usd_h:.2f} ({each.rent_on}, {each.rent_source})",
            "-" if each.buy_usd is None else f"{each.buy_usd:,.0f} ({each.buy_on})",
        )
        for each in prices()
    )
    return Section("Cards", ("Card", "Memory", "Bandwidth", "Power", "Rent, $/hour", "Launch price, $"), rows)


def _pools(plan: Plan) -> str:
    pools = (("small", plan.small), ("full", plan.full))
    return " + ".join(f"{tier} {_pool(pool)}" for tier, pool in pools if pool is not None) or "cache alone"


def _pool(pool: Pool) -> str:
    return f"{pool.cards} × {pool.card.name}, {pool.slots} slots"


def _p95s(outcome: Outcome) -> str:
    return ", ".join(
        f"{each.tier} {each.p95_s:.2f} s{'' if each.is_within else f' (goal {each.goal_s:g})'}"
        for each in outcome.tiers
        if each.tier != "cache"
    )


def _played_p95s(compared: Compared) -> str:
    """As `_p95s`, as simulated; marked where the prediction is beyond the margin."""
    said = []
    for tier in compared.predicted.tiers:
        seen = compared.played.tier(tier.tier)
        if seen is None or tier.tier == "cache":
            continue
        mark = " *" if is_beyond(tier.p95_s, seen.p95_s) else ""
        said.append(f"{seen.p95_s:.2f} s{mark}{'' if seen.is_within else f' (goal {seen.goal_s:g})'}")
    return ", ".join(said)


# --- printing --------------------------------------------------------------------------------------------------------


def _print_tables(intro: Sequence[str], sections: Sequence[Section], about: str) -> None:
    for line in intro:
        console.print(literal(line))
    for each in sections:
        console.print(f"\n[bold]{literal(each.title)}[/bold]")
        drawn = table(*each.columns)
        for row in each.rows:
            drawn.add_row(*map(literal, row))
        draw(drawn)
        for remark in each.remarks:
            console.print(f"[dim]{literal(remark)}[/dim]")
    console.print(f"\n{about}")


def _print_markdown(intro: Sequence[str], sections: Sequence[Section], about: str) -> None:
    lines = [*intro]
    for each in sections:
        lines += ["", f"### {each.title}", "", f"| {' | '.join(each.columns)} |", f"|{' --- |' * len(each.columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in each.rows]
        lines += ["", *(f"- {remark}" for remark in each.remarks)] if each.remarks else []
    click.echo("\n".join([*lines, "", about]))
