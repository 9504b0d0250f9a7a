"""Whose trace a call belongs to, as W3C's headers say it; and spans as OTLP has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.otlp import Kind, Moment, Span, request_of, span_of
from orchestrator.core.tracecontext import Parent, is_in_share, parent_of, traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("told", "is_sampled"),
    [
        (GOOD, True),
        (f" {GOOD} ", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-02", False),  # a flag of a younger version
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"cc-{TRACE}-{SPAN}-01", True),  # a younger version, which says more and means the same so far
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
    ],
)
def test_a_callers_span_is_read_from_its_header(told, is_sampled):
    assert parent_of(told) == Parent(TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "told",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"{GOOD}, {GOOD}",  # sent twice
        f"00-{TRACE[:-1]}\u0663-{SPAN}-01",
    ],
)
def test_what_is_no_traceparent_is_nobodys(told):
    assert parent_of(told, "a=b") is None


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ("a=1 , b=2 ,, ", "a=1,b=2"),
        ("fw529a3039@dt=FfAR;x:1", "fw529a3039@dt=FfAR;x:1"),
        ("A=1", ""),
        ("a=1,b", ""),
        ("a=1,b=2=3", ""),
        ("a=\u00e9", ""),
        (",".join(f"k{each}=1" for each in range(32)), ",".join(f"k{each}=1" for each in range(32))),
        (",".join(f"k{each}=1" for each in range(33)), ""),
        ("a=" + "x" * 511, ""),
    ],
)
def test_what_others_keep_in_a_trace_is_handed_on_as_it_came_or_not_at_all(told, kept):
    found = parent_of(GOOD, told)
    assert found is not None
    assert found.state == kept


@given(st.text(), st.text())
def test_whatever_a_caller_sends_what_is_handed_on_is_fit_for_a_header(parent, state):
    for found in (parent_of(parent, state), parent_of(GOOD, state)):
        if found is not None:
            assert parent_of(traceparent(*found[:2], is_sampled=found.is_sampled), found.state) == found
            assert found.state.isascii()
            assert "\r" not in found.state
            assert "\n" not in found.state


def test_a_share_of_all_is_all_and_of_nothing_is_none_and_a_half_is_one_half_of_the_ids():
    least, most = TRACE[:16] + "0" * 16, TRACE[:16] + "f" * 16
    assert is_in_share(most, 1.0)
    assert not is_in_share(least, 0.0)
    assert is_in_share(TRACE[:16] + "7" + "f" * 15, 0.5)
    assert not is_in_share(TRACE[:16] + "8" + "0" * 15, 0.5)


def test_a_span_is_told_as_otlps_json_has_it():
    moment = Moment(5, "first byte", {"ollamactl.n": 1})
    link = ("1" * 32, "2" * 16)
    span = Span(
        *(TRACE, SPAN, "", "chat m", Kind.CLIENT, 4, 9),
        {"s": "x", "none": "", "n": 2**53 + 1, "d": 0.5, "b": True},
        *((moment,), True, "a=b", link),
    )
    (resource,) = request_of([span_of(span)], {"service.name": "ollamactl"}, ("scope", "1"))["resourceSpans"]
    assert resource["resource"]["attributes"] == [{"key": "service.name", "value": {"stringValue": "ollamactl"}}]
    (scope,) = resource["scopeSpans"]
    assert scope["scope"] == {"name": "scope", "version": "1"}
    assert scope["spans"] == [
        {
            "traceId": TRACE,
            "spanId": SPAN,
            "name": "chat m",
            "kind": 3,
            "startTimeUnixNano": "4",
            "endTimeUnixNano": "9",
            "attributes": [
                {"key": "s", "value": {"stringValue": "x"}},
                {"key": "n", "value": {"intValue": "9007199254740993"}},
                {"key": "d", "value": {"doubleValue": 0.5}},
                {"key": "b", "value": {"boolValue": True}},
            ],
            "status": {"code": 2},
            "traceState": "a=b",
            "links": [{"traceId": "1" * 32, "spanId": "2" * 16}],
            "events": [
                {
                    "timeUnixNano": "5",
                    "name": "first byte",
                    "attributes": [{"key": "ollamactl.n", "value": {"intValue": "1"}}],
                }
            ],
        }
    ]
