"""`ollamactl route calibrate`: what a tier's own log probabilities say of its answers, as a file for `calibration`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from orchestrator.app.calibrating import FEWEST, Answered, CalibrationError, answered
from orchestrator.app.calibration_file import write_calibration
from orchestrator.app.evaluating import Asking, Target
from orchestrator.app.targets_by_name import target_of
from orchestrator.cli.evaluate import read_questions
from orchestrator.cli.looking import looked_at
from orchestrator.cli.output import console, errors, literal, table
from orchestrator.cli.status import endpoint_of
from orchestrator.core.confidence import calibrate, shipped
from orchestrator.core.evaluation.questions import Question
from orchestrator.core.held_out import Judged, calibration_error, judged_apart

SEED = 3
THRESHOLDS = (0.5, 0.7, 0.85, 0.95)


def run_calibrate(
    *,
    questions: Path,
    tier: str,
    out: Path,
    at_once: int,
    tokens: int | None,
    config: Path | None,
    state: Path,
    endpoint: str | None,
    key: str,
) -> int:
    """Ask, grade, write, and print what would come of it. Raises OrchestratorError."""
    asked = read_questions(questions)
    if len(asked) < FEWEST:
        raise CalibrationError(f"{questions}: has {len(asked)} questions; a curve wants {FEWEST} at least")
    settings = looked_at(config, state if endpoint is None else None).settings
    target = target_of(tier, settings)
    answers = asyncio.run(_asked(asked, target, Asking(endpoint_of(state, endpoint), key, at_once, tokens)))
    right = [each.is_right for each in answers]
    if not any(right) or all(right):
        told = "every answer is right" if all(right) else "no answer is right"
        raise CalibrationError(f"{told}, so nothing can be told from that; ask what {tier} gets right now and then")
    logprobs, like = [each.logprobs for each in answers], shipped()
    made = calibrate(logprobs, right, like.statistic, like.early_tokens)
    write_calibration(out, made, f"{len(answers)} answers of {target.model}")
    order = list(range(len(answers)))
    random.Random(SEED).shuffle(order)  # noqa: S311 (no secret)
    _draw(judged_apart(logprobs, right, like.statistic, order), tier, out)
    return 0


async def _asked(questions: Sequence[Question], target: Target, asking: Asking) -> list[Answered]:
    with Progress(console=errors, transient=True) as progress:
        task = progress.add_task(target.name, total=len(questions))
        return await answered(questions, target, asking, lambda: progress.advance(task))


def _draw(judged: Sequence[Judged], tier: str, out: Path) -> None:
    right = sum(each.is_right for each in judged) / len(judged)
    console.print(f"{len(judged)} answers of {literal(tier)}, {right:.0%} right; curve in {literal(str(out))}")
    console.print(f"calibration error on answers it was not made of: {calibration_error(judged):.3f}")
    drawn = table("confidence_below", "escalated", "right of the others")
    for below in THRESHOLDS:
        kept = [each.is_right for each in judged if each.confidence >= below]
        told = f"{sum(kept) / len(kept):.0%}" if kept else "none left"
        drawn.add_row(str(below), f"{1 - len(kept) / len(judged):.0%}", told)
    console.print(drawn)
