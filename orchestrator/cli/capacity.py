"""`ollamactl capacity`: the cheapest cards for so many users, what the owner's plans carry, and what-ifs.

Reads a recording or questions, has plans worked out and played by `core/capacity`, and draws a plot; what is said of it
is `capacity_tables`' and `capacity_json`'s.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

import click

from orchestrator.cli.capacity_json import as_json
from orchestrator.cli.capacity_plot import plot, users_drawn
from orchestrator.cli.capacity_tables import Judged, Told, print_told
from orchestrator.cli.chart import check_kind
from orchestrator.core.capacity.asking import Asked, AsRecorded, mix_of_questions, tier_of
from orchestrator.core.capacity.carrying import users_carried
from orchestrator.core.capacity.comparing import Play, compare, curve, users_played
from orchestrator.core.capacity.demand import Goals, Load, Mix, Recorded, recorded_load, summarise
from orchestrator.core.capacity.documents import PROMISES, Promise, judge
from orchestrator.core.capacity.planning import SLOTS, Candidate, Model, Wish, candidates, what_ifs
from orchestrator.core.capacity.prices import Basis
from orchestrator.core.capacity.simulation import Arrival, Hour
from orchestrator.core.cards import parse_cards
from orchestrator.core.catalogue import find
from orchestrator.core.errors import OrchestratorError

USERS: Final = 500
WARM_SHARE: Final = 0.1  # of the time simulated: goes before it, and is not counted
PLANS_SHOWN: Final = 10
_COLUMNS: Final = ("t_s", "input_tokens", "output_tokens")
_SEED_OF_TIERS: Final = 7  # which recorded call goes to which tier: the same for every plan

Row = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which parts are wanted beside the plan, and how. `play` None: nothing is simulated."""

    documents: bool = False
    what_if: bool = False
    prices: bool = False
    as_json: bool = False
    markdown: bool = False
    plot: Path | None = None
    play: Play | None = None


def run_asked(given: Mapping[str, Any]) -> int:
    """Run the command for its options, by their names."""
    if given["plot"]:
        check_kind(given["plot"])
    mix = _mix(given)
    goals = Goals(small_s=given["goal_small"], full_s=given["goal_full"])
    load = Load(given["users"] or USERS, given["think"], mix, given["prompt"], given["answer"], goals=goals)
    rows = read_recording(given["trace"]) if given["trace"] else None
    recorded = _summary(given["trace"], rows, given["context"]) if rows is not None else None
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
    play = _play(given, load, rows) if given["simulation"] else None
    documents, what_if, with_prices = given["documents"], given["what_if"], given["prices"]
    wanted = Wanted(documents, what_if, with_prices, given["as_json"], given["markdown"], given["plot"], play)
    return run_capacity(load, wish, recorded, wanted)


def run_capacity(load: Load, wish: Wish, recorded: Recorded | None, wanted: Wanted) -> int:
    """Print what was asked for. Exit code 1 where no card of the list keeps the goals."""
    play = wanted.play
    found = candidates(wish, load)
    told = Told(
        load,
        wish,
        recorded,
        found,
        tuple(compare(each.plan, load, play) for each in found[:PLANS_SHOWN]) if play else (),
        tuple(_judged(each, load, wish, play) for each in PROMISES) if wanted.documents else (),
        what_ifs(wish, load, _other_weights(wish)) if wanted.what_if else (),
        play,
        wanted.prices,
    )
    if wanted.as_json:
        click.echo(json.dumps(as_json(told), indent=2))
    else:
        print_told(told, markdown=wanted.markdown)
    if wanted.plot and found:
        _draw(wanted.plot, found[0], load, play)
    return 0 if found else 1


def _judged(promise: Promise, load: Load, wish: Wish, play: Play | None) -> Judged:
    """A plan of the documents, played with the users promised, and how many it carries when played."""
    verdict = judge(promise, load, wish.small, wish.full)
    if play is None:
        return Judged(verdict)
    ours = replace(play, asking=None, arrivals=None)  # their mixes are their own
    asked = replace(load, mix=promise.mix)
    at_promise = compare(verdict.plan, asked.with_users(promise.users[1]), ours)
    return Judged(verdict, at_promise, users_played(verdict.plan, asked, verdict.carried, ours))


def _draw(path: Path, found: Candidate, load: Load, play: Play | None) -> None:
    """Users against p95 for the cheapest plan. What was recorded is drawn with users, too: its lengths, their times."""
    most = users_carried(found.plan, load)
    ours = replace(play, arrivals=None) if play else None
    lines = curve(found.plan, load, users_drawn(most, 24), None)
    dots = curve(found.plan, load, users_drawn(most, 8), ours) if ours else ()
    plot(path, found, load, lines, dots)
    click.echo(f"drawn: {path}", err=True)


# --- what is asked for -----------------------------------------------------------------------------------------------


def _mix(given: Mapping[str, Any]) -> Mix:
    """As told, or what the router makes of the questions of a file; the hit rate, where it is told, is another one."""
    mix: Mix = given["mix"] if given["questions"] is None else _mix_of_file(given["questions"])
    return mix if given["hit_rate"] is None else mix.with_hit_rate(given["hit_rate"])


def _mix_of_file(path: Path) -> Mix:
    """Questions of a text file, one a line, in the order they were asked."""
    from orchestrator.app.rules import rule_of
    from orchestrator.core.dialects.parse import Turn
    from orchestrator.core.difficulty import score
    from orchestrator.core.routing import choose_tier
    from orchestrator.settings.routing import RouteSettings

    rule = rule_of(RouteSettings())
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return mix_of_questions(lines, lambda text: choose_tier(score((Turn("user", text),)), rule).tier)
    except (ValueError, OSError) as why:
        raise OrchestratorError(f"{path}: not a file of questions, one a line: {why}") from why


def _play(given: Mapping[str, Any], load: Load, rows: Sequence[Row] | None) -> Play:
    """Users who think; of a recording without a number of users its own calls, at their times."""
    seconds = given["minutes"] * 60.0
    play = Play(Random, given["seed"], Hour(seconds, seconds * WARM_SHARE))
    if rows is None:
        return play
    if given["users"]:
        return replace(play, asking=AsRecorded(load.mix, tuple((row[1], row[2]) for row in rows)))
    rng, began_s = Random(_SEED_OF_TIERS), rows[0][0]  # noqa: S311 (no secret)
    arrivals = tuple(Arrival(row[0] - began_s, Asked(tier_of(load.mix, rng), *row[1:])) for row in rows)
    return replace(play, hour=Hour(arrivals[-1].at_s, 0.0), arrivals=arrivals)


def model_named(name: str) -> Model:
    """A catalogue's model. Raises OrchestratorError for a name it does not know."""
    shape = find(name)
    if shape is None:
        raise OrchestratorError(f"model {name!r} is not in the catalogue; `ollamactl plan` reads models from disk")
    return Model(name, shape)


def read_recording(path: Path) -> list[Row]:
    """A recording's CSV or JSON lines (`t_s`, `input_tokens`, `output_tokens`), gzipped or not, by time."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = content.decode().splitlines()
        is_json = ".jsonl" in path.suffixes
        rows: Iterator[Mapping[str, Any]] = map(json.loads, lines) if is_json else iter(csv.DictReader(lines))
        return sorted((float(row["t_s"]), float(row["input_tokens"]), float(row["output_tokens"])) for row in rows)
    except UnicodeDecodeError as why:  # which has the whole file in its repr
        raise OrchestratorError(f"{path}: not a recording, but no text in UTF-8: {why}") from why
    except (KeyError, ValueError, TypeError, OSError, EOFError, csv.Error, zlib.error) as why:
        needed = ", ".join(_COLUMNS)
        raise OrchestratorError(f"{path}: not a recording with the columns {needed}: {why!r}") from why


def _summary(path: Path, rows: Sequence[Row], context: int) -> Recorded:
    try:
        return summarise(rows, context)
    except ValueError as why:
        raise OrchestratorError(f"{path}: {why}") from why


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
