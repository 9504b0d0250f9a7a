"""Which state of a file stands, where several places have it and what lies between them is not to be believed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.mirror import NEVER, Stamp, Step, step

OLD, NEW = Stamp(4, "b"), Stamp(5, "a")
PLACES = 3


@pytest.mark.parametrize(
    ("before", "there", "is_changed", "expected"),
    [
        (NEW, NEW, False, Step.NOTHING),
        (OLD, NEW, False, Step.TAKEN),
        (OLD, NEW, True, Step.LOST),
        (NEW, NEW, True, Step.GIVEN),
        (NEW, OLD, False, Step.TOLD_AGAIN),
        (NEW, OLD, True, Step.GIVEN),
        (NEW, NEVER, False, Step.TOLD_AGAIN),
        (NEVER, NEW, False, Step.TAKEN),
        (NEVER, NEVER, True, Step.GIVEN),
        (NEVER, NEVER, False, Step.NOTHING),
        (Stamp(5, "a"), Stamp(5, "b"), False, Step.TAKEN),
        (Stamp(5, "b"), Stamp(5, "a"), False, Step.TOLD_AGAIN),
    ],
)
def test_the_newer_state_stands_and_an_older_or_none_changes_nothing(
    before: Stamp, there: Stamp, is_changed: bool, expected: Step
) -> None:
    assert step(before, there, is_changed=is_changed, is_same=False, is_dated=True) is expected


def test_what_is_the_same_already_is_only_noted() -> None:
    for is_changed in (False, True):
        assert step(OLD, NEW, is_changed=is_changed, is_same=True, is_dated=True) is Step.NOTED


def test_states_without_a_stamp_are_believed_until_one_was_seen() -> None:
    before, there = Stamp(0, "x"), Stamp(0, "a")
    assert step(before, there, is_changed=False, is_same=False, is_dated=False) is Step.TAKEN
    assert step(before, there, is_changed=False, is_same=False, is_dated=True) is Step.GIVEN
    assert step(NEVER, there, is_changed=False, is_same=False, is_dated=True) is Step.GIVEN
    assert step(NEW, there, is_changed=False, is_same=False, is_dated=True) is Step.TOLD_AGAIN
    assert step(before, before, is_changed=False, is_same=True, is_dated=False) is Step.NOTHING
    assert step(before, NEW, is_changed=False, is_same=False, is_dated=False) is Step.TAKEN


@dataclass(slots=True)
class Place:
    """One that plays a place's part with the least: a file is a number, and its seal that number."""

    before: Stamp = NEVER
    now: int | None = None

    @property
    def is_changed(self) -> bool:
        return self.now is not None if self.before == NEVER else str(self.now) != self.before.seal

    def agree(self, there: Stamp) -> Stamp:
        """What is there afterwards."""
        is_same = str(self.now) == there.seal
        found = step(self.before, there, is_changed=self.is_changed, is_same=is_same, is_dated=True)
        if found in (Step.TAKEN, Step.LOST, Step.NOTED):
            self.before, self.now = there, None if there.seal == "None" else int(there.seal)
        elif found is Step.GIVEN:
            self.before = there = Stamp(self.before.revision + 1, str(self.now))
        elif found is Step.TOLD_AGAIN:
            there = self.before
        return there


@dataclass(slots=True)
class World:
    """Places, what lies between them, and everything that ever lay there."""

    places: list[Place] = field(default_factory=lambda: [Place() for _ in range(PLACES)])
    there: Stamp = NEVER
    ever: list[Stamp] = field(default_factory=lambda: [NEVER])

    def agree(self, number: int) -> None:
        self.there = self.places[number].agree(self.there)
        self.ever.append(self.there)


AT = st.integers(0, PLACES - 1)
ACTS = st.one_of(
    st.tuples(st.just("agree"), AT),
    st.tuples(st.just("change"), AT, st.none() | st.integers(0, 2)),
    st.tuples(st.just("put back"), st.integers(0, 50)),
)


@given(st.lists(ACTS, max_size=30))
def test_whatever_is_put_back_no_place_goes_back_and_in_the_end_all_have_the_same(acts: list[tuple]) -> None:
    world = World()
    for act, what, *value in acts:
        highest = [each.before for each in world.places]
        if act == "agree":
            world.agree(what)
        elif act == "change":
            world.places[what].now = value[0]
        else:
            world.there = world.ever[what % len(world.ever)]
        assert all(each.before >= before for each, before in zip(world.places, highest, strict=True))
    for number in [*range(PLACES)] * PLACES:
        world.agree(number)
    assert len({(each.before, each.now) for each in world.places}) == 1
    assert world.there == world.places[0].before == max(world.ever)


def test_a_place_that_has_forgotten_learns_what_is_newest_and_its_next_change_is_above_that() -> None:
    world = World(places=[Place(), Place()])
    world.places[0].now = 1
    world.agree(0)
    kept = replace(world.places[0])
    world.places[0].now = 2
    world.agree(0)
    world.agree(1)
    world.places[0] = kept  # brought back from a backup
    world.agree(0)
    assert world.places[0].now == 2
    world.places[0].now = 1
    world.agree(0)
    world.agree(1)
    assert world.places[1].now == 1
