"""The chaos suite's short form: a drawn fault of each kind, under load, and everything that must hold all the while.

`OLM_CHAOS_SEED` has another one drawn. All of them: `make chaos`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.chaos import trial
from tests.chaos.faults import Fault
from tests.chaos.schedule import SHORT_PLAN, SHORT_SIZE, drawn
from tests.chaos.world import World, world_of
from tests.cluster.running import needs_redis

SEED = os.environ.get("OLM_CHAOS_SEED", "8")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    needs_redis()
    with world_of(tmp_path_factory.mktemp("chaos") / "world", SHORT_PLAN) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", drawn(SEED), ids=lambda each: each.name)
def test_what_is_promised_holds_whatever_happens(world: World, fault: Fault) -> None:
    result = trial.run(world, fault, f"{SEED}-{fault.name}", SHORT_SIZE)
    assert result.breaches == ()
    assert result.ends.get("whole", 0) > 0
