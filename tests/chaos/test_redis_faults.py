"""What Redis does to a small cluster under load: killed, empty, silent, full, slow. All of them with OLM_CHAOS=full."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.chaos import trial
from tests.chaos.faults import Fault
from tests.chaos.faults_redis import REDIS_FAULTS, RedisFull, RedisHoldsWrites, RedisKilled, RedisPaused, RedisSlow
from tests.chaos.schedule import SHORT_SIZE
from tests.chaos.world import Plan, World, world_of
from tests.cluster.running import needs_redis

IS_FULL = os.environ.get("OLM_CHAOS") == "full"
WITH_SENTINELS = Plan(instances=4)
# One gateway machine, and one Redis that nobody takes the place of.
ALONE = Plan(sides=1, instances=2, sentinels=0)
OF_ONE_REDIS = (RedisFull, RedisKilled, RedisPaused, RedisHoldsWrites, RedisSlow) if IS_FULL else (RedisFull,)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    needs_redis()
    with world_of(tmp_path_factory.mktemp("redis") / "world", ALONE) as made:
        yield made


@pytest.fixture(scope="module")
def with_sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    needs_redis()
    with world_of(tmp_path_factory.mktemp("sentinels") / "world", WITH_SENTINELS) as made:
        yield made


@pytest.mark.parametrize("kind", OF_ONE_REDIS, ids=lambda each: each.name)
def test_without_redis_every_call_is_answered(alone: World, kind: type[Fault]) -> None:
    result = trial.run(alone, kind(), kind.__name__, SHORT_SIZE)
    assert result.breaches == ()


@pytest.mark.long
@pytest.mark.parametrize("kind", REDIS_FAULTS, ids=lambda each: each.name)
def test_whatever_happens_to_redis_every_call_is_answered(with_sentinels: World, kind: type[Fault]) -> None:
    result = trial.run(with_sentinels, kind(), kind.__name__, SHORT_SIZE)
    assert result.breaches == ()
