"""`ollamactl capacity`: the cheapest cards for so many users, what the owner's plans carry, and what-ifs.

Reads a recording's file and writes tables, Markdown or JSON; every figure is worked out in `core/capacity`.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
from rich.markup import escape

from orchestrator.cli.output import console, draw, table
from orchestrator.core.capacity.carrying import Outcome, Plan
from orchestrator.core.capacity.demand import Goals, Load, Recorded, recorded_load, summarise
from orchestrator.core.capacity.documents import PROMISES, Verdict, figures, judge
from orchestrator.core.capacity.planning import SLOTS, Candidate, Model, WhatIf, Wish, candidates, what_ifs
from orchestrator.core.capacity.prices import Basis, prices
from orchestrator.core.capacity.service import Pool
from orchestrator.core.cards import parse_cards
from orchestrator.core.catalogue import find
from orchestrator.core.errors import OrchestratorError

PREDICTED: Final = (
    "Predicted from published figures of cards and prices of the days given (`--prices`), not measured and not "
    "simulated; docs/decisions/0019-capacity-model.md has formulas, assumptions and limits."
)
USERS: Final = 500
BURSTY: Final = 4.0  # squared variation of the gaps, beyond which Allen and Cunneen's factor is a guess
_COLUMNS: Final = ("t_s", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Shown:
    """Which parts are wanted beside the plan, and how."""

    documents: bool = False
    what_if: bool = False
    prices: bool = False
    as_json: bool = False
    markdown: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A table with its title and the remarks below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()


def run_asked(given: Mapping[str, Any]) -> int:
    """Run the command for its options, by their names."""
    mix = given["mix"] if given["hit_rate"] is None else given["mix"].with_hit_rate(given["hit_rate"])
    goals = Goals(small_s=given["goal_small"], full_s=given["goal_full"])
    load = Load(given["users"] or USERS, given["think"], mix, given["prompt"], given["answer"], goals=goals)
    recorded = read_recording(given["trace"], given["context"]) if given["trace"] else None
    if recorded is not None:
        load = load_of(recorded, load, given["users"])
    wish = Wish(
        model_named(given["small"]),
        model_named(given["full"]),
        context=given["context"],
        kv_type=given["kv"],
        basis=Basis(given["price"]),
        slots=(given["slots"],) if given["slots"] else SLOTS,
    )
    if given["cards"]:
        wish = replace(wish, cards=tuple(dict.fromkeys(parse_cards(given["cards"]))))
    shown = Shown(given["documents"], given["what_if"], given["prices"], given["as_json"], given["markdown"])
    return run_capacity(load, wish, recorded, shown)


def run_capacity(load: Load, wish: Wish, recorded: Recorded | None, shown: Shown) -> int:
    """Print what was asked for. Exit code 1 where no card of the list keeps the goals."""
    found = candidates(wish, load)
    verdicts = tuple(judge(each, load, wish.small, wish.full) for each in PROMISES) if shown.documents else ()
    changed = what_ifs(wish, load, _other_weights(wish)) if shown.what_if else ()
    if shown.as_json:
        click.echo(json.dumps(_json(load, wish, recorded, found, verdicts, changed, shown), indent=2))
    else:
        sections = [_plans(load, wish, found)]
        sections += [_documents(load, verdicts), _figures(load, wish)] if shown.documents else []
        sections += [_what_ifs(changed)] if shown.what_if else []
        sections += [_prices()] if shown.prices else []
        intro = (_asked(load, wish), *_recorded(recorded))
        (_print_markdown if shown.markdown else _print_tables)(intro, sections)
    return 0 if found else 1


def model_named(name: str) -> Model:
    """A catalogue's model. Raises OrchestratorError for a name it does not know."""
    shape = find(name)
    if shape is None:
        raise OrchestratorError(f"model {name!r} is not in the catalogue; `ollamactl plan` reads models from disk")
    return Model(name, shape)


def read_recording(path: Path, context: int) -> Recorded:
    """A recording's CSV or JSON lines (`t_s`, `input_tokens`, `output_tokens`), gzipped or not, in few numbers."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = content.decode().splitlines()
        is_json = ".jsonl" in path.suffixes
        rows: Iterator[Mapping[str, Any]] = map(json.loads, lines) if is_json else iter(csv.DictReader(lines))
        return summarise([[float(row[name]) for name in _COLUMNS] for row in rows], context)
    except (KeyError, ValueError, TypeError, OSError) as why:
        needed = ", ".join(_COLUMNS)
        raise OrchestratorError(f"{path}: not a recording with the columns {needed}: {why!r}") from why


def load_of(recorded: Recorded, load: Load, users: int | None) -> Load:
    """`load` as recorded; without a number of users as many as ask at its rate, if answers take no time."""
    asked = recorded_load(recorded, load)
    return replace(asked, users=users or max(1, round(recorded.calls_s * load.think_s)))


def _other_weights(wish: Wish) -> list[tuple[str, Model, Model]]:
    """The same models in other quantisations, as far as the catalogue has them."""
    bases = [each.name.rpartition("-q")[0] or each.name for each in (wish.small, wish.full)]
    found: list[tuple[str, Model, Model]] = []
    for tag in ("q4_0", "q8_0", "fp16"):
        small, full = (find(f"{base}-{tag}") for base in bases)
        if small is not None and full is not None:
            models = [Model(f"{base}-{tag}", shape) for base, shape in zip(bases, (small, full), strict=True)]
            found.append((f"weights {tag}", models[0], models[1]))
    return found


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


def _plans(load: Load, wish: Wish, found: Sequence[Candidate]) -> Section:
    rows = tuple(
        (
            _pools(each.plan),
            _p95s(each.outcome),
            f"{each.outcome.utilisation:.0%}",
            f"{each.outcome.calls_s:.2f}",
            f"{each.usd:,.0f}",
            f"{each.usd_a_user:.2f}",
        )
        for each in found[:10]
    )
    remarks = (
        "One instance a card. A plan without small cards answers those questions with the full model, to its goal.",
    )
    if not found:
        remarks = ("No card of the list keeps these goals: allow longer, ask for less, or a smaller model.",)
    columns = ("Plan", "p95 by tier", "Busiest slots", "Calls/s", "$/month", "$/user")
    return Section("Plans that keep the goals, cheapest first", columns, rows, remarks)


def _documents(load: Load, verdicts: Sequence[Verdict]) -> Section:
    rows: list[tuple[str, ...]] = []
    remarks: list[str] = []
    for each in verdicts:
        promise = each.promise
        ratio = each.too_hopeful
        rows.append(
            (
                f"{promise.name}: {promise.hardware}",
                f"{promise.users[0]}-{promise.users[1]}",
                str(each.carried),
                "-" if ratio is None else f"{ratio:.2f}",
                f"{promise.at_once or '-'} / {each.at_once}",
                _p95s(each.at_promise),
                f"{each.at_promise.utilisation:.0%}",
                f"{each.usd:,.0f}",
                "-" if each.usd_a_user is None else f"{each.usd_a_user:.2f}",
                "-" if each.rent_usd is None else f"{each.rent_usd:,.0f}",
                str(each.better_carried),
            )
        )
        remarks += [f"{promise.name}: {reason}" for reason in each.reasons]
    columns = (
        "Plan",
        "Users promised",
        "carried",
        "promised / carried",
        "At once promised / carried",
        "p95 with those promised",
        "slots",
        "$/month",
        "$/user carried",
        "cards' rent",
        "carried by one instance a card",
    )
    return Section(f"The documents' plans, users who think {load.think_s:g} s", columns, tuple(rows), tuple(remarks))


def _figures(load: Load, wish: Wish) -> Section:
    rows = tuple((each.what, each.said, each.found) for each in figures(load, wish.small, wish.full))
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


# --- printing --------------------------------------------------------------------------------------------------------


def _print_tables(intro: Sequence[str], sections: Sequence[Section]) -> None:
    for line in intro:
        console.print(escape(line))
    for each in sections:
        console.print(f"\n[bold]{escape(each.title)}[/bold]")
        drawn = table(*each.columns)
        for row in each.rows:
            drawn.add_row(*map(escape, row))
        draw(drawn)
        for remark in each.remarks:
            console.print(f"[dim]{escape(remark)}[/dim]")
    console.print(f"\n{PREDICTED}")


def _print_markdown(intro: Sequence[str], sections: Sequence[Section]) -> None:
    lines = [*intro]
    for each in sections:
        lines += ["", f"### {each.title}", "", f"| {' | '.join(each.columns)} |", f"|{' --- |' * len(each.columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in each.rows]
        lines += ["", *(f"- {remark}" for remark in each.remarks)] if each.remarks else []
    click.echo("\n".join([*lines, "", PREDICTED]))


def _json(
    load: Load,
    wish: Wish,
    recorded: Recorded | None,
    found: Sequence[Candidate],
    verdicts: Sequence[Verdict],
    changed: Sequence[WhatIf],
    shown: Shown,
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "about": PREDICTED,
        "asked": {**asdict(load), "context": wish.context, "kv_type": wish.kv_type, "prices": wish.basis.value},
        "recorded": asdict(recorded) if recorded else None,
        "plans": [_candidate(each) for each in found],
    }
    if shown.documents:
        told["documents"] = [_verdict(each) for each in verdicts]
        told["figures"] = [asdict(each) for each in figures(load, wish.small, wish.full)]
    if shown.what_if:
        told["what_if"] = [
            {"changed": each.change, "plan": _candidate(each.found) if each.found else None} for each in changed
        ]
    if shown.prices:
        told["prices"] = [asdict(each) for each in prices()]
    return told


def _candidate(found: Candidate) -> dict[str, Any]:
    return {
        **_plan_json(found.plan),
        "usd_a_month": found.usd,
        "usd_a_user": found.usd_a_user,
        **_outcome(found.outcome),
    }


def _plan_json(plan: Plan) -> dict[str, Any]:
    pools = {"small": plan.small, "full": plan.full}
    return {
        "pools": {
            tier: {
                "model": pool.model,
                "card": pool.card.name,
                "cards": pool.cards,
                "instances_a_card": pool.instances,
                "slots": pool.slots,
                "context": pool.context,
                "kv_type": pool.kv_type,
            }
            for tier, pool in pools.items()
            if pool is not None
        }
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {**asdict(outcome), "utilisation": outcome.utilisation, "keeps_goals": outcome.is_within}


def _verdict(each: Verdict) -> dict[str, Any]:
    return {
        "promise": asdict(each.promise),
        "as_promised": _plan_json(each.plan),
        "users_carried": each.carried,
        "at_once_carried": each.at_once,
        "promised_over_carried": each.too_hopeful,
        "with_users_promised": _outcome(each.at_promise),
        "with_users_carried": _outcome(each.at_carried) if each.at_carried else None,
        "usd_a_month": each.usd,
        "usd_a_user_carried": each.usd_a_user,
        "cards_rent_usd": each.rent_usd,
        "better": {**_plan_json(each.better), "users_carried": each.better_carried},
        "reasons": each.reasons,
    }
