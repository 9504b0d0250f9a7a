"""The weights that ship are those that training writes, and training judges by what the product itself says."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from orchestrator.core.dialects.parse import Turn
from orchestrator.core.difficulty import doubt_of, score
from orchestrator.core.difficulty_model import read, shipped

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "routing-eval" / "dev.jsonl.gz"
SHIPPED = ROOT / "orchestrator" / "data" / "difficulty.json"


@pytest.fixture(scope="module")
def train():
    pytest.importorskip("sklearn", reason="scikit-learn trains the weights: pip install -e .[routing]")
    if not DATA.exists():
        pytest.skip("routing-eval: ../shared is not present")
    path = ROOT / "benchmarks" / "routing" / "train.py"
    spec = importlib.util.spec_from_file_location("train", path)
    found = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.modules["train"] = found
    spec.loader.exec_module(found)
    yield found
    sys.path[:] = before
    del sys.modules["train"], sys.modules["evaluate"]


@pytest.fixture(scope="module")
def sets(train):
    rows = train.load(DATA)
    return [train.numbers_of(name, [row for row in rows if row["benchmark"] == name]) for name in train.KINDS]


def test_the_shipped_file_is_small_and_is_what_training_would_write_now(train, sets):
    assert SHIPPED.stat().st_size < 100_000
    made, told = train.fit(sets), json.loads(SHIPPED.read_text())
    assert told["form"]["weights"] == pytest.approx(made["form"]["weights"], abs=0.01)
    assert told["choices"]["weights"] == pytest.approx(made["choices"]["weights"], abs=0.01)
    assert told["answer"]["weights"] == pytest.approx(made["answer"]["weights"], abs=0.01)
    assert told["topic"]["step"] == pytest.approx(made["topic"]["step"], rel=0.01)


def test_training_judges_by_the_points_that_the_product_gives(train, sets):
    gsm8k = sets[1]
    for one in sets:
        points = train.points_of(one, shipped())
        for place in range(0, len(one.rows), 97):
            assert score((Turn("user", one.rows[place]["prompt"]),)).points == pytest.approx(points[place])
    doubts = train.doubts_of(gsm8k, shipped())
    for place in range(0, len(gsm8k.rows), 31):
        row = gsm8k.rows[place]
        assert doubt_of(row["prompt"], row["weak_answer"]).points == pytest.approx(doubts[place])


def test_on_questions_left_out_of_training_it_wins_back_what_the_card_says(train, sets):
    told = train.cross_validate(sets, seed=0, key="passage", count=4)
    mmlu, gsm8k = sets
    assert train.judged(mmlu, told["mmlu"])["APGR"] > 0.66
    assert train.judged(gsm8k, told["gsm8k"])["APGR"] > 0.60
    assert train.judged(gsm8k, told["gsm8k answered"])["APGR"] > 0.74


@pytest.mark.parametrize(("part", "name"), [("form", "length"), ("choices", "alike"), ("answer", "cut")])
def test_weights_for_other_features_are_refused(part, name):
    told = json.loads(SHIPPED.read_text())
    del told[part]["weights"][name]
    with pytest.raises(ValueError, match="train anew"):
        read(told)
