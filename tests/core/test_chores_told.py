"""Changes of models: which are the same, what several nodes' progress and outcomes come to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from orchestrator.core.chores import Chore, ChoreKind, Ending, Outcome, Progress, ending, is_blob, why_not

PULL = Chore(ChoreKind.PULL, {"model": "m:8b"})
DELETE = Chore(ChoreKind.DELETE, {"model": "m:8b"})
DONE, FAILED, MISSING = Outcome("a"), Outcome("b", 500, "disk full"), Outcome("c", 404, "model 'm:8b' not found")


@pytest.mark.parametrize(
    ("chore", "outcomes", "was_begun", "expected"),
    [
        (PULL, (DONE, Outcome("b")), False, Ending()),
        (PULL, (DONE, FAILED), False, Ending(500, "pull of m:8b failed on 1 of 2 nodes: b: disk full; done on a")),
        (PULL, (FAILED,), False, Ending(500, "disk full")),
        (PULL, (FAILED, Outcome("c", 500, "disk full")), False, Ending(500, "disk full")),
        (PULL, (FAILED, Outcome("c", 0, "away")), False, "failed on 2 of 2 nodes: b: disk full; c: away"),
        (PULL, (DONE, MISSING), False, "failed on 1 of 2 nodes: c: model 'm:8b' not found; done on a"),
        (PULL, (), False, Ending(503, "no server of the cluster keeps models of its own that could be changed")),
        (DELETE, (DONE, MISSING), False, Ending()),
        (DELETE, (MISSING,), False, Ending(404, "model 'm:8b' not found")),
        (DELETE, (MISSING,), True, Ending()),
        (DELETE, (MISSING, FAILED), False, Ending(500, "disk full")),
    ],
)
def test_what_came_of_it_on_all_nodes_together(
    chore: Chore, outcomes: tuple[Outcome, ...], was_begun: bool, expected: Ending | str
) -> None:
    ended = ending(chore, outcomes, was_begun=was_begun)
    if isinstance(expected, str):
        assert ended.status == 500
        assert expected in ended.error
    else:
        assert ended == expected


def test_the_same_is_asked_for_however_a_name_is_spelled() -> None:
    def asked(kind: ChoreKind, **body: Any) -> str:
        return Chore(kind, body).digest

    one = asked(ChoreKind.PULL, model="Llama3")
    assert one == asked(ChoreKind.PULL, model="registry.ollama.ai/library/llama3:latest")
    others = [
        asked(ChoreKind.PULL, model="llama3:8b"),
        asked(ChoreKind.PUSH, model="llama3"),
        asked(ChoreKind.PULL, model="llama3", insecure=True),
    ]
    assert one not in others
    assert Chore(ChoreKind.COPY, {"source": "A", "destination": "b:latest"}).names == {"a", "b"}


@pytest.mark.parametrize(
    ("kind", "body", "what", "replaced"),
    [
        (ChoreKind.PULL, {"model": "m", "insecure": True}, "m", ""),
        (ChoreKind.PUSH, {"model": "me/m"}, "me/m", ""),
        (ChoreKind.CREATE, {"model": "m", "from": "n", "parameters": {"seed": 1}}, "m from n", "m"),
        (ChoreKind.CREATE, {"model": "m", "files": {"a": "sha256:x"}}, "m", "m"),
        (ChoreKind.COPY, {"source": "m", "destination": "n"}, "m to n", "n"),
        (ChoreKind.COPY, {"source": "m:1b-cloud", "destination": "n"}, "m:1b-cloud to n", "n"),
        (ChoreKind.DELETE, {"model": "m:1b-cloud"}, "m:1b-cloud", "m:1b-cloud"),
        (ChoreKind.BLOB, {"digest": f"sha256:{64 * '0'}"}, f"sha256:{64 * '0'}", ""),
    ],
)
def test_what_may_be_asked_for_says_what_it_is_and_which_model_is_no_more_what_it_was(
    kind: ChoreKind, body: dict[str, Any], what: str, replaced: str
) -> None:
    chore = Chore(kind, body)
    assert (why_not(chore), chore.what, chore.replaced) == ("", what, replaced)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ChoreKind.PULL, {}),
        (ChoreKind.PULL, {"model": 7}),
        (ChoreKind.PULL, {"model": "m", "insecure": "yes"}),
        (ChoreKind.PULL, {"model": "m", "from": "n"}),
        (ChoreKind.PUSH, {"model": "m", "username": "u"}),
        (ChoreKind.CREATE, {"model": "m", "from": ["n"]}),
        (ChoreKind.CREATE, {"model": "m:cloud", "from": "n"}),
        (ChoreKind.COPY, {"source": "m", "destination": "n", "model": "o"}),
        (ChoreKind.DELETE, {"model": "/etc/passwd"}),
        (ChoreKind.BLOB, {"digest": f"sha256:{64 * '0'}", "model": "m"}),
    ],
)
def test_what_no_gateway_passes_on_may_not_be_asked_for(kind: ChoreKind, body: dict[str, Any]) -> None:
    assert why_not(Chore(kind, body))


@pytest.mark.parametrize(
    ("digest", "is_one"),
    [
        ("sha256:" + 32 * "0f", True),
        ("sha256:" + 32 * "0F", False),
        ("sha256:../../etc/passwd", False),
        ("sha256:" + 33 * "0f", False),
        ("", False),
    ],
)
def test_what_is_a_blobs_name(digest: str, is_one: bool) -> None:
    assert is_blob(digest) is is_one


def test_a_line_is_told_once_the_last_node_has_come_so_far_and_the_first_of_all_at_once() -> None:
    progress = Progress()
    progress.begins(("a", "b"))
    progress.saw("a", {"status": "pulling manifest"})
    assert progress.news() == [{"status": "pulling manifest"}]
    progress.saw("a", {"status": "writing manifest"})
    assert progress.news() == []
    progress.saw("b", {"status": "writing manifest"})
    progress.saw("b", {"status": "success"})
    assert progress.news() == [{"status": "writing manifest"}]


def test_nobody_waits_for_the_lines_of_a_node_that_has_failed() -> None:
    progress = Progress()
    progress.begins(("a", "b"))
    for status in ("pulling manifest", "writing manifest"):
        progress.saw("a", {"status": status})
    assert progress.news() == [{"status": "pulling manifest"}]
    progress.left("b")
    assert progress.news() == [{"status": "writing manifest"}]


steps = some.lists(some.tuples(some.sampled_from("abc"), some.integers(0, 200)), max_size=40)


@given(steps=steps)
def test_of_a_layer_the_mean_is_told_which_never_falls_and_is_whole_when_all_have_it(
    steps: list[tuple[str, int]],
) -> None:
    progress = Progress()
    progress.begins("abc")
    layer = {"status": "pulling x", "digest": "sha256:x", "total": 100}
    told: list[int] = []
    for node, completed in [*steps, ("a", 100), ("b", 100), ("c", 100)]:
        progress.saw(node, {**layer, "completed": completed})
        told += [each.get("completed", 0) for each in progress.news()]
    assert told == sorted(set(told))
    assert told[-1] == 100
