"""Who copies what from whom: everybody gets it, nobody gives to too many at once, in few rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.copying import FAN_OUT, Transfer, agreed_versions, next_transfers
from orchestrator.core.model import ModelOnDisk, NodeFacts, NodeName

NODES = [NodeName(f"n{each}") for each in range(12)]
MODELS = ["a", "b", "c", "d"]
nodes = st.sampled_from(NODES)
models = st.sampled_from(MODELS)
holdings = st.dictionaries(nodes, st.sets(models))
wishes = st.dictionaries(nodes, st.lists(models, unique=True))
A, B, C = NODES[:3]


def facts(node: NodeName, *there: ModelOnDisk) -> NodeFacts:
    return NodeFacts(node, node, "a CPU", 1, 0, 0, 0, models=there)


def rounds(has: dict[NodeName, set[str]], wanted: Mapping[NodeName, Sequence[str]], fan_out: int) -> int:
    """How many it takes until nothing can begin any more, if all transfers take equally long. `has` grows."""
    for count in range(1000):
        begun = next_transfers(has, wanted, fan_out=fan_out)
        if not begun:
            return count
        check(begun, has, fan_out)
        for each in begun:
            has.setdefault(each.target, set()).add(each.model)
    raise AssertionError("never done")


def check(under_way: Sequence[Transfer], has: Mapping[NodeName, set[str]], fan_out: int) -> None:
    assert max(Counter(each.source for each in under_way).values(), default=0) <= fan_out
    assert max(Counter(each.target for each in under_way).values(), default=0) <= 1
    for each in under_way:
        assert each.model in has[each.source]
        assert each.model not in has.get(each.target, set())


@given(holdings, wishes, st.integers(1, 4))
def test_everybody_gets_what_somebody_has_and_nobody_gives_to_more_than_allowed(has, wanted, fan_out):
    somewhere = set().union(*has.values()) if has else set()
    rounds(has, wanted, fan_out)
    for node, wishes_of_node in wanted.items():
        assert set(wishes_of_node) & somewhere <= has.get(node, set())


@given(st.integers(1, 100), st.integers(1, 20), st.integers(1, 4))
def test_a_models_holders_are_multiplied_in_each_round(targets, sources, fan_out):
    has = {NodeName(f"s{each}"): {"a"} for each in range(sources)}
    wanted = {NodeName(f"t{each}"): ["a"] for each in range(targets)}
    expected = next(count for count in range(20) if sources * (1 + fan_out) ** count >= sources + targets)
    assert rounds(has, wanted, fan_out) == expected


@given(holdings, wishes, st.randoms(use_true_random=False), st.integers(1, 3))
def test_transfers_that_end_one_after_the_other_never_overload_anybody(has, wanted, random, fan_out):
    under_way: list[Transfer] = []
    while True:
        under_way += next_transfers(has, wanted, under_way, fan_out=fan_out)
        check(under_way, has, fan_out)
        if not under_way:
            break
        done = under_way.pop(random.randrange(len(under_way)))
        has.setdefault(done.target, set()).add(done.model)
    assert not any(next_transfers(has, wanted, fan_out=fan_out))


@given(holdings, wishes, st.sets(st.builds(Transfer, models, nodes, nodes)))
def test_what_is_broken_is_not_begun_and_what_can_be_had_elsewhere_is(has, wanted, broken):
    first = {node: set(there) for node, there in has.items()}
    while begun := next_transfers(has, wanted, broken=broken):
        assert broken.isdisjoint(begun)
        for each in begun:
            has.setdefault(each.target, set()).add(each.model)
    for node, wishes_of_node in wanted.items():
        for model in set(wishes_of_node) - has.get(node, set()):
            assert all(Transfer(model, each, node) in broken for each, there in first.items() if model in there)


def test_the_model_that_fewest_have_goes_first():
    has = {A: {"a", "b"}, B: {"a"}}
    assert next_transfers(has, {C: ["a", "b"]}) == (Transfer("b", A, C),)


def test_the_node_that_gives_least_is_asked():
    has = {A: {"a"}, B: {"a"}}
    busy = [Transfer("b", A, NODES[4])]
    assert next_transfers(has, {C: ["a"]}, busy, fan_out=FAN_OUT) == (Transfer("a", B, C),)


def test_the_version_that_most_nodes_have_is_the_one_that_is_copied():
    old, new = ModelOnDisk("a:latest", "1" * 64, 5), ModelOnDisk("a:latest", "2" * 64, 6)
    assert agreed_versions([facts(A, old), facts(B, new), facts(C, old)]) == {"a:latest": old}
