"""`ollamactl eval run`: one set of questions for several targets, as a table, as JSON and as a page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path

import click
from rich.progress import Progress

from orchestrator.app.evaluating import Asking, Target, evaluate, questions_in, resamples
from orchestrator.app.targets_by_name import prices_of, target_of
from orchestrator.cli.evaluation_page import COLUMNS, cells, page
from orchestrator.cli.looking import looked_at
from orchestrator.cli.output import console, draw, errors, literal, table
from orchestrator.cli.status import endpoint_of
from orchestrator.core.dialects.parse import Turn
from orchestrator.core.difficulty import score
from orchestrator.core.evaluation.questions import Question, read_set
from orchestrator.core.evaluation.report import Outcome, Price, Report, TradeOff, Unasked, report
from orchestrator.whole_file import write_whole

SAMPLE = "data/eval-sample.jsonl"


def run_evaluation(
    *,
    questions: Path | None,
    targets: str,
    out: Path,
    html: Path | None,
    judge: str,
    prices: Sequence[str],
    at_once: int,
    tokens: int | None,
    config: Path | None,
    state: Path,
    endpoint: str | None,
    key: str,
    as_json: bool,
) -> int:
    """Ask, grade, print; 1 where a target may see none of the questions. Raises OrchestratorError."""
    asked = read_questions(questions)
    settings = looked_at(config, state if endpoint is None else None).settings
    wanted = [target_of(each.strip(), settings) for each in targets.split(",") if each.strip()]
    priced = dict(_price(each) for each in prices)
    if unknown := [each for each in priced if each not in {one.name for one in wanted}]:
        raise click.BadParameter(f"--price {unknown[0]}: is none of the targets")
    asking = Asking(endpoint_of(state, endpoint), key, at_once, tokens, judge)
    outcomes, unasked = asyncio.run(_asked(asked, wanted, asking, out))
    points = {each.id: score((Turn("user", each.prompt),)).points for each in asked}
    known = prices_of(wanted, settings)
    found = report(outcomes, [each.name for each in wanted], points, known | priced, resamples, unasked)
    if html is not None:
        write_whole(html, page(found))
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        _draw(found)
    for remark in found.remarks():
        errors.print(f"[yellow]note:[/yellow] {literal(remark)}", soft_wrap=True)
    return 1 if found.silent else 0


def read_questions(path: Path | None) -> tuple[Question, ...]:
    """The questions of a file, or of the sample that ships. Raises SetError."""
    if path is None:
        sample = resources.files("orchestrator").joinpath(SAMPLE)
        return read_set(sample.read_text(encoding="utf-8").splitlines(), "the sample")
    return questions_in(path)


def _price(given: str) -> tuple[str, Price]:
    name, _, told = given.rpartition("=")
    try:
        read, written = map(float, told.split("/"))
    except ValueError:
        raise click.BadParameter(f"--price {given}: TARGET=IN/OUT is wanted, as small=0.05/0.1") from None
    return name, Price(read, written)


async def _asked(
    questions: Sequence[Question], targets: Sequence[Target], asking: Asking, out: Path
) -> tuple[list[Outcome], list[Unasked]]:
    unasked: list[Unasked] = []
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("asking", total=len(questions) * len(targets))

        def on_outcome(outcome: Outcome | Unasked, left: int) -> None:
            if isinstance(outcome, Unasked):
                unasked.append(outcome)
            progress.update(task, completed=len(questions) * len(targets) - left)

        return await evaluate(questions, targets, asking, out, on_outcome), unasked


def _draw(found: Report) -> None:
    if found.is_simulated:
        console.print("[bold]SIMULATED:[/bold] texts are played; accuracy says nothing here")
    drawn = table(*COLUMNS)
    for each in found.targets:
        drawn.add_row(*map(literal, cells(each)))
    draw(drawn)
    if found.trade_off is not None:
        _draw_trade_off(found.trade_off)


def _draw_trade_off(trade_off: TradeOff) -> None:
    console.print(f"{trade_off.questions} questions by difficulty, the hardest to {literal(trade_off.full)} first:")
    drawn = table(*(f"{step * 10} %" for step in range(len(trade_off.curve))))
    drawn.add_row(*(f"{each:.1%}" for each in trade_off.curve))
    draw(drawn)
    for line in measured(trade_off):
        console.print(literal(line))


def measured(trade_off: TradeOff) -> tuple[str, ...]:
    """APGR, CPT(50 %) and CPT(80 %) with their 95 % intervals, in words."""
    if trade_off.measures is None:
        return (f"{trade_off.full} is not better than {trade_off.small} on this set: there is nothing to win back",)
    low, high = trade_off.measures_from, trade_off.measures_to
    told = []
    for name, field in (("APGR", "apgr"), ("CPT(50 %)", "cpt50"), ("CPT(80 %)", "cpt80")):
        between = f" (95 %: {getattr(low, field):.3g} to {getattr(high, field):.3g})" if low and high else ""
        told.append(f"{name} {getattr(trade_off.measures, field):.3g}{between}")
    return tuple(told)
