"""What is deployed, as each controller of a place finds it: also what was moved, and what left the settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.app import deployments
from orchestrator.app.deployed import NOTHING_YET, Deployed
from orchestrator.app.paths import StatePaths
from orchestrator.core.errors import HostError
from orchestrator.core.model import Event, Moment, NodeName
from orchestrator.fleet.inventory import Sight
from orchestrator.fleet.sightings import LASTS_S, Sightings
from orchestrator.settings import ClusterSettings
from tests.fleet.test_standing import POOL, A, B, card, deployed, host

SETTINGS = ClusterSettings.model_validate(
    {
        "nodes": [{"name": name, "address": f"10.0.0.{at}"} for at, name in enumerate(("gpu-1", "gpu-2"), 2)],
        "models": {POOL: {"replicas": 2}},
    }
)
BOTH = (host("gpu-1", card("GPU-0"), card("GPU-1")), host("gpu-2", card("GPU-2")))
LOST = (host("gpu-1", card("GPU-1")), host("gpu-2", card("GPU-2")))


class Place:
    """One controller after the other over one state folder."""

    def __init__(self, folder: Path) -> None:
        self.paths, self.events, self.settings = StatePaths(folder), list[Event](), SETTINGS
        self.next()

    def next(self) -> None:
        """A controller that knows nothing of the one before."""
        self.deployed = Deployed(self.paths, lambda: self.settings, self.events.append)
        self.sightings = Sightings(
            record=self.events.append,
            on_change=lambda: None,
            placements=lambda: self.deployed.placements,
            user=lambda: "ollama",
        )

    def order(self, facts):
        for now_s in (0.0, LASTS_S + 1):
            for each in facts:
                self.sightings.saw(Sight(NodeName(each.node), each))
            self.sightings.look(now_s)
        return self.deployed.order(facts, self.sightings, {})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    deployments.write(made.paths, deployed(A, B))
    made.order(BOTH)
    return made


def test_before_anything_is_deployed_nothing_is_wanted_and_the_way_is_said(tmp_path: Path) -> None:
    order = Place(tmp_path).order(BOTH)
    assert (order.wanted, order.deployment, order.notes) == (None, 0, (NOTHING_YET,))


def test_what_was_moved_is_moved_for_the_next_controller_too_and_told_of_once(place: Place) -> None:
    moved = set(place.order(LOST).wanted.plan.placements)
    assert A not in moved
    assert B in moved
    place.next()
    assert set(place.order(LOST).wanted.plan.placements) == moved
    assert set(place.order(BOTH).wanted.plan.placements) == moved, "the card is back, and its place is taken"
    assert [each.kind for each in place.events].count(Moment.MOVED) == 1


def test_a_new_deployment_ends_what_was_moved_for_the_one_before(place: Place) -> None:
    place.order(LOST)
    deployments.write(place.paths, replace(deployed(A), number=2))
    assert place.order(BOTH).wanted.plan.placements == (A,)


def test_a_host_that_left_the_settings_is_told_of_and_nothing_is_wanted_there(place: Place) -> None:
    place.settings = SETTINGS.model_copy(update={"nodes": SETTINGS.nodes[:1]})
    order = place.order(BOTH)
    assert order.wanted.plan.placements == (A,)
    assert "gpu-2: not among the nodes any more" in order.notes[0]


def test_damaged_moves_are_said_and_nothing_is_moved(place: Place) -> None:
    (place.paths.root / "moves.json").write_text("{")
    with pytest.raises(HostError, match=r"moves\.json cannot be read"):
        place.order(LOST)
