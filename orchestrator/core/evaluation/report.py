"""What an evaluation found: each target's accuracy, time, tokens and price, and what routing between two would do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Final

from orchestrator.core.evaluation.tradeoff import Item, Measures, curve, interval, mean_interval, measure

NAMED: Final = 10  # questions in one remark


@dataclass(frozen=True, slots=True)
class Outcome:
    """One target's answer to one question, graded. `chosen`: the tier that it went to, where the target is a route."""

    question: str
    target: str
    is_right: bool
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    chosen: str = ""
    model: str = ""
    text: str = ""
    is_simulated: bool = False
    asked: str = ""  # a digest of what was asked and how it is graded: another one is another question


@dataclass(frozen=True, slots=True)
class Unasked:
    """A question that a target may not see: its privacy class, and the words with which the gateway refused it.

    `judge`: the target has answered it, and this judge may not see that; it counts as not asked.
    """

    question: str
    target: str
    privacy: str
    why: str
    judge: str = ""


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars a million tokens, read and written."""

    prompt: float
    completion: float


@dataclass(frozen=True, slots=True)
class Told:
    """One target's figures. `dollars` of the whole set; None: no price was named."""

    target: str
    questions: int
    accuracy: float
    accuracy_from: float
    accuracy_to: float
    p50_s: float
    p95_s: float
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None
    chosen: Mapping[str, int]  # of a route: how many questions each tier got


@dataclass(frozen=True, slots=True)
class TradeOff:
    """Two targets, and the difficulty that sends questions to the second. `measures` None: the second is not better."""

    small: str
    full: str
    questions: int
    curve: tuple[float, ...]  # accuracy at 0 %, 10 % … 100 % of questions to `full`
    measures: Measures | None
    measures_from: Measures | None
    measures_to: Measures | None


@dataclass(frozen=True, slots=True)
class Report:
    """`unasked`: by target, then by privacy class, how many questions it was not asked; they count in no figure.
    `unjudged`: by target, which of those were kept from the judge alone, each with the judge's name."""

    targets: tuple[Told, ...]
    trade_off: TradeOff | None
    is_simulated: bool
    unasked: Mapping[str, Mapping[str, int]]
    unjudged: Mapping[str, Mapping[str, str]]

    @property
    def silent(self) -> tuple[str, ...]:
        """Targets that were asked nothing at all, and so have no figures."""
        return tuple(each for each in self.unasked if all(told.target != each for told in self.targets))

    def remarks(self) -> tuple[str, ...]:
        """For each target that was not asked everything, a sentence that says so."""
        asked = {each.target: each.questions for each in self.targets}
        return tuple(
            _remark(each, asked.get(each, 0), classes, self.unjudged.get(each, {}))
            for each, classes in self.unasked.items()
        )


def _remark(target: str, asked: int, classes: Mapping[str, int], unjudged: Mapping[str, str]) -> str:
    count = sum(classes.values())
    told = ", ".join(f"{privacy} {number}" for privacy, number in classes.items())
    rest = f"; its figures are of the other {asked}" if asked else ", and it has no figures"
    if unjudged:
        judges, several = ", ".join(sorted(set(unjudged.values()))), list(unjudged)
        more = f" and {len(several) - NAMED} more" if len(several) > NAMED else ""
        told += f"; the judge {judges} may not see {', '.join(several[:NAMED])}{more}"
    return f"{target}: {count} of {asked + count} questions not asked, refused by privacy class ({told}){rest}"


# From how many questions there are to resamples of their places.
Resample = Callable[[int], Sequence[Sequence[int]]]


def report(
    outcomes: Sequence[Outcome],
    targets: Sequence[str],
    points: Mapping[str, float],
    prices: Mapping[str, Price],
    resample: Resample,
    unasked: Sequence[Unasked] = (),
) -> Report:
    """`points`: how hard each question is judged before anybody answers; `targets` in their order, cheapest first."""
    by_target = {each: [one for one in outcomes if one.target == each] for each in targets}
    told = tuple(_told(each, several, prices.get(each)) for each, several in by_target.items() if several)
    fixed = [each for each, several in by_target.items() if several and not any(one.chosen for one in several)]
    trade_off = _trade_off(fixed[0], fixed[1], by_target, points, resample) if len(fixed) > 1 else None
    refused = {each: Counter(sorted(one.privacy for one in unasked if one.target == each)) for each in targets}
    counted = {each: dict(classes) for each, classes in refused.items() if classes}
    kept = {each: {one.question: one.judge for one in unasked if one.target == each and one.judge} for each in counted}
    unjudged = {each: by_question for each, by_question in kept.items() if by_question}
    return Report(told, trade_off, any(each.is_simulated for each in outcomes), counted, unjudged)


def _told(target: str, outcomes: Sequence[Outcome], price: Price | None) -> Told:
    accuracy, low, high = mean_interval([float(each.is_right) for each in outcomes])
    seconds = [each.seconds for each in outcomes]
    cuts = quantiles(seconds, n=20, method="inclusive") if len(seconds) > 1 else seconds * 19
    read, written = sum(each.prompt_tokens for each in outcomes), sum(each.completion_tokens for each in outcomes)
    dollars = (read * price.prompt + written * price.completion) / 1e6 if price is not None else None
    chosen: dict[str, int] = {}
    for each in outcomes:
        if each.chosen:
            chosen[each.chosen] = chosen.get(each.chosen, 0) + 1
    return Told(target, len(outcomes), accuracy, low, high, cuts[9], cuts[18], read, written, dollars, chosen)


def _trade_off(
    small: str,
    full: str,
    by_target: Mapping[str, Sequence[Outcome]],
    points: Mapping[str, float],
    resample: Resample,
) -> TradeOff | None:
    weak = {each.question: float(each.is_right) for each in by_target[small]}
    strong = {each.question: float(each.is_right) for each in by_target[full]}
    items: list[Item] = [(points[each], weak[each], strong[each]) for each in weak if each in strong and each in points]
    if not items:
        return None
    between = interval(items, resample(len(items)))
    return TradeOff(
        small,
        full,
        len(items),
        tuple(curve(items)),
        measure(items),
        *(between if between is not None else (None, None)),
    )
