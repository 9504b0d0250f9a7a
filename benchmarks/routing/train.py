"""Trains the weights that `orchestrator.core.difficulty` ships with, and says how good they are on what they never saw.

Question   how much of the gap between a weak and a strong model do weights learnt from recorded outcomes win back?
Data       the half for developers of the routing data, ../shared/routing-eval/dev.jsonl.gz beside the repository, or
           --data; card and licence: CARD.md beside this file
Command    python benchmarks/routing/train.py               cross-validates, then writes the package's difficulty.json
           python benchmarks/routing/train.py --only-check  cross-validates and writes nothing
Needs      scikit-learn: `pip install -e .[routing]`. The product itself needs neither it nor numpy.

Four sets of weights, each from what a call's own text shows; MMLU's subject is read in training alone, to take noise
out of the outcomes of single questions, and by no feature:
  form     11 counts that tell nothing of what a question is about; none may make it easier; drawn to round weights set
           by hand, so that no count that the data knows little of is lost
  topic    words and pairs of words, hashed to 32,768 places of one byte
  choices  signs in the choices that a question of an examination gives, and in how it asks
  answer   signs in the weak model's answer, and those of the question
"""

from __future__ import annotations

import argparse
import json
import sys
from base64 import b85encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from scipy.optimize import nnls
from scipy.sparse import csr_matrix, diags, vstack
from sklearn.linear_model import Ridge

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "routing")]

from evaluate import DATA, load, measures  # noqa: E402

from orchestrator.core import difficulty  # noqa: E402
from orchestrator.core.difficulty_answer import answer_of  # noqa: E402
from orchestrator.core.difficulty_choices import CHOICES, choices_of  # noqa: E402
from orchestrator.core.difficulty_form import FORM  # noqa: E402
from orchestrator.core.difficulty_model import SIGNED, SIGNS, Model, read  # noqa: E402
from orchestrator.core.difficulty_topic import BITS, places  # noqa: E402

TARGET = ROOT / "orchestrator" / "data" / "difficulty.json"
KINDS = {"mmlu": difficulty.EXAM, "gsm8k": difficulty.SUMS}
# Points a unit of each count of FORM is worth by hand: what the form's weights are drawn to.
BY_HAND = (0.4, 0.3, 0.4, 0.8, 0.4, 0.2, 0.1, 0.3, 0.4, 0.2, 0.4)
GAP_A_POINT = 0.04  # of the strong model's advantage over the weak one
BESIDE_SUBJECT = 0.2  # of how a question differs from its subject's mean is believed
PULL = 20_000.0  # questions that the weights by hand count as much as
SHRINK = 20  # questions of the mean that a subject's own mean is mixed with
EXAM = (4.8, 1.5)  # base and spread, in points
MIXES = {"gsm8k": (7.0, 1.2, 1.0, 0.75)}  # base, spread, parts of form and of topic


@dataclass(frozen=True)
class Set:
    """One benchmark's questions as numbers."""

    name: str
    rows: list[dict[str, Any]]
    seen: list[difficulty.Seen]
    form: np.ndarray
    topic: csr_matrix
    choices: np.ndarray
    answer: np.ndarray | None

    @property
    def gap(self) -> np.ndarray:
        return np.array([row["strong"] - row["weak"] for row in self.rows], float)

    @property
    def wrong(self) -> np.ndarray:
        return 1.0 - np.array([row["weak"] for row in self.rows], float)

    def part(self, chosen: np.ndarray) -> Set:
        rows = [row for row, is_in in zip(self.rows, chosen, strict=True) if is_in]
        seen = [each for each, is_in in zip(self.seen, chosen, strict=True) if is_in]
        answer = None if self.answer is None else self.answer[chosen]
        return Set(self.name, rows, seen, self.form[chosen], self.topic[chosen], self.choices[chosen], answer)


def numbers_of(name: str, rows: list[dict[str, Any]]) -> Set:
    seen = [difficulty.look(row["prompt"]) for row in rows]
    found = [places(each.words) for each in seen]
    starts = np.cumsum([0, *map(len, found)])
    cells = ([value for each in found for value in each.values()], [place for each in found for place in each], starts)
    answers = [answer_of(row["prompt"], row["weak_answer"]) for row in rows if "weak_answer" in row]
    return Set(
        name,
        rows,
        seen,
        np.array([difficulty.features_of(each) for each in seen]),
        csr_matrix(cells, shape=(len(rows), 1 << BITS)),
        np.array([choices_of(each.text) for each in seen]),
        np.array(answers) if answers else None,
    )


def fit_form(sets: list[Set]) -> np.ndarray:
    """Weights in points, none below zero: least squares, drawn to BY_HAND. Both benchmarks count the same."""
    left, right = [], []
    size = max(len(each.rows) for each in sets)
    for each in sets:
        equal = np.sqrt(size / len(each.rows))
        left.append(equal * (each.form - each.form.mean(0)))
        right.append(equal * (each.gap - each.gap.mean()))
    spread = np.sqrt(sum((part**2).sum(0) for part in left) / (size * len(left))) + 0.05
    pull = np.sqrt(PULL)
    left.append(pull * np.diag(spread))
    right.append(pull * spread * np.array(BY_HAND) * GAP_A_POINT)
    return np.round(nnls(np.vstack(left), np.concatenate(right))[0] / GAP_A_POINT, 4)


def smoothed(one: Set) -> np.ndarray:
    """The gap of each question, most of its noise taken out: its subject's mean, and a little of its own."""
    gap = one.gap - one.gap.mean()
    subjects = np.array([row.get("subject") or "" for row in one.rows])
    means = np.zeros(len(gap))
    for subject in np.unique(subjects):
        of_it = subjects == subject
        means[of_it] = gap[of_it].sum() / (of_it.sum() + SHRINK)
    return means + BESIDE_SUBJECT * (gap - means)


def fit_topic(sets: list[Set]) -> np.ndarray:
    """A weight a place. Rare words are believed as much as common ones once they are weighed by how rare they are."""
    seen = vstack([each.topic for each in sets]).tocsr()
    often = np.bincount(seen.indices, minlength=1 << BITS)
    rarity = (np.log((1 + seen.shape[0]) / (1 + often)) + 1) / 5
    ridge = Ridge(alpha=3.0, solver="sparse_cg", random_state=0)
    ridge.fit(seen @ diags(rarity), np.concatenate([smoothed(each) for each in sets]))
    return ridge.coef_ * rarity * (often > 0)


def fit(sets: list[Set]) -> dict[str, Any]:
    """The file's content, from these questions alone."""
    form, topic = fit_form(sets), fit_topic(sets)
    step = float(np.abs(topic).max() / (SIGNED - 1))
    table = np.round(topic / step).astype(int)
    mixes, choices = {}, np.zeros(len(CHOICES))
    for each in sets:
        unseen = unseen_topic(each, sets)
        if KINDS[each.name] == difficulty.EXAM:
            mixes[difficulty.EXAM], choices = mix_of_exam(each, form, unseen)
        else:
            mixes[KINDS[each.name]] = mix(each, form, unseen)
    return {
        "form": {"weights": dict(zip(FORM, form.tolist(), strict=True))},
        "topic": {"step": step, "table": b85encode(bytes((table + SIGNED).tolist())).decode()},
        "choices": {"weights": dict(zip(CHOICES, np.round(choices, 5).tolist(), strict=True))},
        "mixes": mixes,
        "answer": fit_answer(sets),
    }


def unseen_topic(one: Set, sets: list[Set]) -> np.ndarray:
    """The topic of each question by weights that were not fitted to it: what fitted ones say of it is too sure."""
    unseen = np.zeros(len(one.rows))
    own = folds(one, 4, seed=9)
    others = [each for each in sets if each is not one]
    for fold in range(4):
        unseen[own == fold] = one.part(own == fold).topic @ fit_topic([*others, one.part(own != fold)])
    return unseen


def mix(one: Set, form: np.ndarray, unseen: np.ndarray) -> dict[str, float]:
    """How form and topic are added for this kind, by set shares."""
    base, spread, of_form, of_topic = MIXES[one.name]
    formed = one.form @ form
    parts = of_form * formed / formed.std() + of_topic * unseen / unseen.std()
    worth = spread / parts.std()
    by_form, by_topic = worth * of_form / formed.std(), worth * of_topic / unseen.std()
    offset = -(by_form * formed.mean() + by_topic * unseen.mean())
    return {"base": base, "form": float(by_form), "topic": float(by_topic), "offset": float(offset)}


def mix_of_exam(one: Set, form: np.ndarray, unseen: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """How form, topic and the signs of the choices are added: by least squares, for there are questions enough."""
    base, spread = EXAM
    parts = np.column_stack([one.form @ form, unseen, one.choices])
    mean, wide = parts.mean(0), parts.std(0) + 1e-6
    weights = Ridge(alpha=300.0).fit((parts - mean) / wide, smoothed(one)).coef_ / wide
    weights *= spread / (parts @ weights).std()
    by_form, by_topic = weights[:2].tolist()
    return {"base": base, "form": by_form, "topic": by_topic, "offset": float(-mean @ weights)}, weights[2:]


def signs_of(one: Set) -> np.ndarray:
    assert one.answer is not None
    return np.hstack([one.answer, one.form])


def fit_answer(sets: list[Set]) -> dict[str, Any]:
    """Weights of the signs for "the weak answer is wrong, and the strong one would not be", half for each."""
    answered = [each for each in sets if each.answer is not None]
    if not answered:
        return no_answer()
    (one,) = answered
    signs = signs_of(one)
    mean, spread = signs.mean(0), signs.std(0) + 1e-3
    ridge = Ridge(alpha=100.0).fit((signs - mean) / spread, one.wrong + one.gap)
    weights = ridge.coef_ / spread
    base = float(ridge.intercept_ - weights @ mean)
    return {"base": base, "weights": dict(zip(SIGNS, np.round(weights, 6).tolist(), strict=True))}


def no_answer() -> dict[str, Any]:
    return {"base": 0.0, "weights": dict.fromkeys(SIGNS, 0.0)}


def points_of(one: Set, model: Model) -> np.ndarray:
    """What the product would say with these weights."""
    return np.array([difficulty.points_of(each, model) for each in one.seen])


def doubts_of(one: Set, model: Model) -> np.ndarray:
    """With the base: weights of one fold and another are fitted to other means, and their sums alone do not compare."""
    return signs_of(one) @ np.array(model.answer) + model.answer_base


def folds(one: Set, count: int, seed: int, key: str = "passage") -> np.ndarray:
    """A fold a question; questions on one passage, or of one subject, lie in the same."""
    names = [row["subject"] if key == "subject" else row["prompt"][:300] for row in one.rows]
    draw = np.random.default_rng(seed).permutation(4096) % count
    return draw[[crc32(f"{seed} {name}".encode()) % 4096 for name in names]]


Scores = dict[str, np.ndarray]


def cross_validate(sets: list[Set], seed: int, key: str, count: int = 10) -> Scores:
    """Points, and doubts where there are answers, of every question by a model fitted without its fold."""
    of = {each.name: folds(each, count, seed, key) for each in sets}
    told: Scores = {name: np.zeros(len(each.rows)) for each in sets for name in (each.name, f"{each.name} answered")}
    for fold in range(count):
        model = read(fit([each.part(of[each.name] != fold) for each in sets]))
        for each in sets:
            out = of[each.name] == fold
            told[each.name][out] = points_of(each.part(out), model)
            if each.answer is not None:
                told[f"{each.name} answered"][out] = doubts_of(each.part(out), model)
    return told


def judged(one: Set, scores: np.ndarray) -> dict[str, float]:
    items = [(float(score), row["weak"], row["strong"]) for score, row in zip(scores, one.rows, strict=True)]
    return measures(items)


def checks(sets: list[Set], rounds: int) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """What is measured, and its measures in each round of drawing folds."""
    mmlu, gsm8k = sets
    runs = [cross_validate(sets, seed, "passage") for seed in range(rounds)]
    yield "MMLU, unseen questions", [judged(mmlu, run["mmlu"]) for run in runs]
    yield "GSM8K, unseen questions", [judged(gsm8k, run["gsm8k"]) for run in runs]
    yield "GSM8K, after the answer", [judged(gsm8k, run["gsm8k answered"]) for run in runs]
    by_subject = [cross_validate([mmlu], seed, "subject")["mmlu"] for seed in range(rounds)]
    yield "MMLU, unseen subjects", [judged(mmlu, scores) for scores in by_subject]
    for trained, scored in ((mmlu, gsm8k), (gsm8k, mmlu)):
        model = read(fit([trained]))
        name = f"{trained.name.upper()} to {scored.name.upper()}"
        yield f"{name}, form", [judged(scored, scored.form @ np.array(model.form))]
        topic = np.frombuffer(model.topic, np.uint8).astype(float)
        yield f"{name}, topic", [judged(scored, scored.topic @ (topic - SIGNED))]


def print_checks(sets: list[Set], rounds: int, say: Callable[[str], None] = print) -> None:
    say(f"{'checked':26} {'APGR':>13} {'CPT50':>6} {'CPT80':>6}")
    for name, told in checks(sets, rounds):
        mean = {key: float(np.mean([each[key] for each in told])) for key in told[0]}
        spread = float(np.std([each["APGR"] for each in told]))
        say(f"{name:26} {mean['APGR']:.3f} ± {spread:.3f} {mean['CPT50']:7.1f} {mean['CPT80']:6.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=3, help="times the folds are drawn anew")
    parser.add_argument("--only-check", action="store_true", help="write nothing")
    parser.add_argument("--only-write", action="store_true", help="check nothing")
    asked = parser.parse_args()
    rows = load(asked.data)
    sets = [numbers_of(name, [row for row in rows if row["benchmark"] == name]) for name in KINDS]
    if not asked.only_write:
        print_checks(sets, asked.rounds)
    if not asked.only_check:
        told = {"made_by": "benchmarks/routing/train.py", "card": "benchmarks/routing/CARD.md", **fit(sets)}
        TARGET.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        print(f"{TARGET.relative_to(ROOT)}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
