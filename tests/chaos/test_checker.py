"""The checker itself: a good history has no breach, and each kind of bad one has the breach that it should have."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.model import InstanceId, PoolName
from orchestrator.store.pools import InstanceLoad, PoolLoad
from tests.chaos import checker, history
from tests.chaos.answers import meant
from tests.chaos.checker import Disturbance, End, end_of
from tests.chaos.faults import Allowed
from tests.chaos.history import Called, Framing, Piece, Sent

CHAT = Sent("c-1", "/api/chat", {"model": "small:1b", "messages": [{"role": "user", "content": "[call c-1] Why?"}]})
V1 = dataclasses.replace(CHAT, path="/v1/chat/completions", body={**CHAT.body, "stream": True})
GENERATE = Sent("c-1", "/api/generate", {"model": "small:1b", "prompt": "[call c-1] Why?", "stream": False})
[TEXT] = meant(CHAT, "small:1b")
CALM = Disturbance(0.0, 0.0, Allowed())
ROUTES = {"auto": ("small:1b", "full:8b")}


def ndjson(*texts: str, is_done: bool = True) -> bytes:
    frames = [{"model": "small:1b", "message": {"role": "assistant", "content": text}, "done": False} for text in texts]
    last = [{"model": "small:1b", "message": {"role": "assistant", "content": ""}, "done": True}] if is_done else []
    return b"".join(json.dumps(each).encode() + b"\n" for each in frames + last)


def sse(*texts: str, is_done: bool = True) -> bytes:
    frames = [json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": None}]}) for text in texts]
    return b"".join(f"data: {each}\n\n".encode() for each in [*frames, *(["[DONE]"] if is_done else [])])


def called(body: bytes = b"", sent: Sent = CHAT, **more: Any) -> Called:
    """A call that went from second 10 to second 11, answered by this body."""
    given = {"began_s": 10.0, "ended_s": 11.0, "framing": Framing.WHOLE, "status": 200, **more}
    return Called(sent, pieces=(Piece(10.5, body),) if body else (), **given)


def halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


GOOD = [called(ndjson(*halves(TEXT))), called(sse(*halves(meant(V1, "small:1b")[0])), V1)]


@pytest.mark.parametrize("good", GOOD, ids=["ndjson", "sse"])
def test_a_whole_and_right_answer_breaches_nothing(good: Called) -> None:
    assert end_of(good) == (End.WHOLE, "")
    assert checker.ended_once(["c-1"], [good]) == []
    assert checker.ended_well([good], CALM) == []
    assert checker.exact([good], ROUTES) == []
    assert checker.starved([good]) == []


def test_a_history_that_was_written_down_is_read_back_the_same(tmp_path: Path) -> None:
    history.write(tmp_path / "some.history", GOOD)
    assert history.read(tmp_path / "some.history") == GOOD


# --- each call ends once ----------------------------------------------------------------------------------------------


def test_a_call_that_never_ends_is_found() -> None:
    assert checker.ended_once(["c-1", "c-2"], GOOD[:1]) == ["c-2 never ended"]


def test_a_call_that_ends_twice_is_found() -> None:
    assert checker.ended_once(["c-1"], GOOD) == ["c-1 ended 2 times"]


def test_an_end_of_a_call_that_nobody_made_is_found() -> None:
    assert checker.ended_once([], GOOD[:1]) == ["c-1 ended and never began"]


@pytest.mark.parametrize(
    ("bad", "end"),
    [
        (called(ndjson(TEXT, is_done=False)), End.BROKEN),
        (called(sse(TEXT, is_done=False), V1), End.BROKEN),
        (called(ndjson(TEXT) + ndjson("more")), End.GARBLED),
        (called(b'{"model":"small:1b","mess\n' + ndjson(TEXT)), End.GARBLED),
        (called(ndjson(TEXT) + b'{"model"'), End.GARBLED),
        (called(b"[1]\n" + ndjson(TEXT)), End.GARBLED),
        (called(b'{"response": "', GENERATE), End.BROKEN),
        (called(b'{"response": "x", "done": false}', GENERATE), End.BROKEN),
        (called(b"<html>", status=502), End.BROKEN),
        (called(b'{"error": "busy"}', status=503), End.BROKEN),
        (called(b'{"error": "busy"}', status=503, headers={"retry-after": "1"}), End.REFUSED),
        (called(ndjson(TEXT, is_done=False), framing=Framing.CUT), End.CUT),
        (called(ndjson(TEXT, is_done=False) + b'{"error": "gone"}\n'), End.ERROR_FRAME),
        (called(ndjson(TEXT, is_done=False) + b'{"error": "gone"}\n', framing=Framing.CUT), End.ERROR_FRAME),
        (called(ndjson(TEXT, is_done=False) + b'{"error": "gone"}\n' + ndjson("more")), End.GARBLED),
        (called(framing=Framing.UNREACHED, status=0, why="nobody"), End.BROKEN),
        (called(framing=Framing.SILENT, why="silence"), End.BROKEN),
        (called(framing=Framing.LEFT), End.LEFT),
    ],
)
def test_each_end_is_told_from_the_others(bad: Called, end: End) -> None:
    assert end_of(bad)[0] is end


@pytest.mark.parametrize(
    ("bad", "allows"),
    [
        (called(ndjson(TEXT, is_done=False), framing=Framing.CUT), Allowed(cut=True)),
        (called(b'{"error": "gone"}\n'), Allowed(error_frames=True)),
        (called(b'{"error": "busy"}', status=503, headers={"retry-after": "1"}), Allowed(refused=True)),
    ],
)
def test_what_a_fault_allows_is_fine_while_it_lasts_and_at_no_other_time(bad: Called, allows: Allowed) -> None:
    assert checker.ended_well([bad], Disturbance(10.5, 20.0, allows)) == []
    assert len(checker.ended_well([bad], Disturbance(10.5, 20.0, Allowed()))) == 1
    [told] = checker.ended_well([bad], Disturbance(11.5, 20.0, allows))
    assert "nothing disturbed it" in told


def test_an_answer_that_no_client_understands_is_allowed_by_nothing() -> None:
    anything = Disturbance(0.0, 99.0, Allowed(cut=True, error_frames=True, refused=True, uncounted=True, again=True))
    assert len(checker.ended_well([called(ndjson(TEXT, is_done=False))], anything)) == 1


# --- streams are exact ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "texts",
    [
        halves(TEXT)[1:],  # the beginning is missing
        halves(TEXT)[:1],  # the end is missing, and it says that it is whole
        (halves(TEXT)[0], *halves(TEXT)),  # something comes twice
        (halves(TEXT)[0], halves(TEXT)[1][3:]),  # a gap
        ("[simulated RTX 4090] Something else.",),  # another call's answer
    ],
)
def test_a_stream_with_a_gap_a_repetition_or_a_wrong_word_is_found(texts: tuple[str, ...]) -> None:
    [told] = checker.exact([called(ndjson(*texts))], ROUTES)
    assert "was told" in told


def test_what_was_cut_off_must_be_a_beginning() -> None:
    first, second = halves(TEXT)
    cut = {"framing": Framing.CUT}
    assert checker.exact([called(ndjson(first, is_done=False) + b'{"mod', **cut)], ROUTES) == []
    assert len(checker.exact([called(ndjson(second, is_done=False), **cut)], ROUTES)) == 1


def test_a_route_may_answer_as_any_of_its_models_and_a_model_only_as_itself() -> None:
    route = dataclasses.replace(CHAT, body={**CHAT.body, "model": "auto"})
    [by_full] = meant(route, "full:8b")
    assert checker.exact([called(ndjson(by_full), route)], ROUTES) == []
    assert len(checker.exact([called(ndjson(by_full))], ROUTES)) == 1


def test_a_cached_answer_may_be_that_of_another_dialect() -> None:
    options = {"num_predict": 5, "temperature": 0.0}
    cached = Sent("c-1", "/api/generate", {"model": "small:1b", "prompt": "Why?", "options": options}, True)
    as_chat = Sent("", "/api/chat", {"messages": [{"role": "user", "content": "Why?"}], "options": options})
    [text] = meant(as_chat, "small:1b")
    frames = b'{"response": %b, "done": false}\n{"response": "", "done": true}\n' % json.dumps(text).encode()
    assert checker.exact([called(frames, cached)], ROUTES) == []
    own = dataclasses.replace(cached, is_cacheable=False)
    assert len(checker.exact([called(frames, own)], ROUTES)) == 1


# --- nobody starves ---------------------------------------------------------------------------------------------------


def waited(number: int, began_s: float, queued_s: float) -> Called:
    headers = {"x-instance": "one/small:1b", "server-timing": f"queue;dur={queued_s * 1e3}, route;dur=0.000"}
    sent = dataclasses.replace(CHAT, id=f"c-{number}")
    return called(sent=sent, began_s=began_s, ended_s=began_s + queued_s + 1, headers=headers)


def test_a_call_that_many_later_ones_overtake_is_found() -> None:
    later = [waited(n, 1.0 + n / 10, 0.1) for n in range(1, 10)]
    assert checker.starved([waited(0, 0.0, 9.0), *later], overtaken_at_most=9) == []
    [told] = checker.starved([waited(0, 0.0, 9.0), *later], overtaken_at_most=8)
    assert told == "c-0 waited for small:1b while 9 calls that came later got a slot"


def test_a_call_that_was_refused_while_later_ones_were_served_is_found() -> None:
    refused = called(b"{}", status=503, began_s=0.0, ended_s=60.0)
    later = [waited(n, 1.0, 0.1) for n in range(1, 4)]
    assert len(checker.starved([refused, *later], overtaken_at_most=2)) == 1


def test_later_calls_that_were_refused_at_once_overtake_nobody() -> None:
    refused = [called(b"{}", status=503, began_s=1.0 + n, ended_s=1.1 + n) for n in range(5)]
    assert checker.starved([waited(0, 0.0, 9.0), *refused], overtaken_at_most=0) == []


# --- slots ------------------------------------------------------------------------------------------------------------


def took(n: int, at_s: float, id_: str = "") -> dict[str, Any]:
    return {"event": "took", "n": n, "at_s": at_s, "id": id_ or f"c-{n}"}


def ended(n: int, at_s: float, *, is_whole: bool = True, tokens: int = 10, frames: int = 11) -> dict[str, Any]:
    return {
        "event": "ended",
        "n": n,
        "at_s": at_s,
        "whole": is_whole,
        "frames": frames,
        "completion_tokens": tokens if is_whole else 0,
    }


def test_more_calls_at_once_than_slots_are_found() -> None:
    journal = [took(0, 1.0), took(1, 1.0), ended(0, 2.5), took(2, 2.6), ended(1, 3.0), ended(2, 4.0)]
    assert checker.oversold({"one": journal}, {"one": 2}) == []
    told = checker.oversold({"one": journal}, {"one": 1})
    assert told == [
        "one worked on 2 calls, from 1.000 for 1.500 s",
        "one worked on 2 calls, from 2.600 for 0.400 s",
    ]


def test_a_client_that_leaves_a_moment_before_another_comes_oversells_nothing() -> None:
    journal = [took(0, 1.0), took(1, 2.0), ended(0, 2.1), ended(1, 3.0)]
    assert checker.oversold({"one": journal}, {"one": 1}) == []
    assert len(checker.oversold({"one": journal}, {"one": 1}, leaving_s=0.05)) == 1


def test_what_an_instance_had_ends_with_its_process() -> None:
    journal = [took(0, 1.0), {"event": "began", "at_s": 5.0}, took(0, 6.0), ended(0, 7.0)]
    assert checker.oversold({"one": journal}, {"one": 1}) == []


def test_an_answer_that_instances_gave_twice_is_found() -> None:
    journals = {"one": [took(0, 1.0, "c-1"), ended(0, 2.0)], "two": [took(0, 1.0, "c-1"), ended(0, 2.0)]}
    assert checker.ran_twice(GOOD[:1], journals, ROUTES) == ["c-1 was answered 2 times"]
    broken = {**journals, "two": [took(0, 1.0, "c-1"), ended(0, 2.0, is_whole=False)]}
    assert checker.ran_twice(GOOD[:1], broken, ROUTES) == []


# --- books ------------------------------------------------------------------------------------------------------------

SERVED = called(ndjson(TEXT), headers={"x-instance": "one/small:1b"})
JOURNALS = {"one": [took(0, 10.0, "c-1"), ended(0, 11.0, tokens=8)]}


@pytest.mark.parametrize(
    ("counted", "breaches"),
    [
        ({"requests": 1, "completion_tokens": 8}, 0),
        ({}, 2),
        ({"requests": 2, "completion_tokens": 8}, 1),
        ({"requests": 1, "completion_tokens": 7}, 1),
        ({"requests": 1, "completion_tokens": 16}, 1),
    ],
)
def test_what_is_counted_is_what_was_served(counted: dict[str, int], breaches: int) -> None:
    assert len(checker.accounted([SERVED], JOURNALS, counted, ROUTES, Allowed())) == breaches


def test_prompts_of_answers_that_clients_had_are_in_the_books() -> None:
    [*first, last] = JOURNALS["one"]
    journals, counted = {"one": [*first, last | {"prompt_tokens": 7}]}, {"requests": 1, "completion_tokens": 8}
    assert checker.accounted([SERVED], journals, counted | {"prompt_tokens": 7}, ROUTES, Allowed()) == []
    [told] = checker.accounted([SERVED], journals, counted | {"prompt_tokens": 6}, ROUTES, Allowed())
    assert told == "6 prompt_tokens are counted, clients had 7"


def test_a_fault_may_take_counts_away_and_never_add_any() -> None:
    loses = Allowed(uncounted=True)
    assert checker.accounted([SERVED], JOURNALS, {}, ROUTES, loses) == []
    assert len(checker.accounted([SERVED], JOURNALS, {"requests": 2}, ROUTES, loses)) == 1


def test_an_answer_that_a_route_doubted_is_counted_as_far_as_it_came() -> None:
    doubted = dataclasses.replace(SERVED, sent=dataclasses.replace(CHAT, body={**CHAT.body, "model": "auto"}))
    journals = {"one": [took(0, 10.0, "c-1"), ended(0, 10.5, is_whole=False, frames=4), *JOURNALS["one"]]}
    counted = {"requests": 2, "completion_tokens": 12}
    assert checker.accounted([doubted], journals, counted, ROUTES, Allowed()) == []
    told = checker.accounted([SERVED], journals, counted, ROUTES, Allowed())  # of one that nobody doubts, once
    assert told == ["2 requests are counted, instances gave 1"]


def test_an_answer_that_another_instance_went_on_with_is_counted_with_what_the_first_had_given() -> None:
    rest = {"two": [took(0, 10.6, "c-1"), ended(0, 11.0, tokens=8)]}
    cut = {"one": [took(0, 10.0, "c-1"), ended(0, 10.5, is_whole=False, frames=4)], **rest}
    killed = {"one": [took(0, 10.0, "c-1"), {"event": "began", "at_s": 10.5}], **rest}
    for journals, most in ((cut, 12), (killed, 16), (rest, 8)):
        counted = {"requests": 1, "completion_tokens": most}
        assert checker.accounted([SERVED], journals, counted, ROUTES, Allowed()) == []
        counted = {"requests": 1, "completion_tokens": most + 1}
        assert len(checker.accounted([SERVED], journals, counted, ROUTES, Allowed())) == 1
    twice = {"requests": 2, "completion_tokens": 12}
    assert len(checker.accounted([SERVED], cut, twice, ROUTES, Allowed())) == 1


def pool(in_flight: int = 0, queued: int = 0, drift: tuple[tuple[str, str], ...] = ()) -> PoolLoad:
    loads = (InstanceLoad(InstanceId("one"), 2, in_flight, 0, 0.0),)
    return PoolLoad(PoolName("small:1b"), True, loads, queued, 0.0, drift)


def test_a_slot_that_is_held_and_a_ticket_that_waits_when_nobody_asks_are_found() -> None:
    assert checker.leases_back([pool()]) == []
    assert len(checker.leases_back([pool(in_flight=1)])) == 1
    assert len(checker.leases_back([pool(queued=1)])) == 1
    assert len(checker.leases_back([pool(drift=(("one", "2, not 1"),))])) == 1
