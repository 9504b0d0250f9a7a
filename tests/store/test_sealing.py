"""Answers sealed: read by whoever has the key, at the place where they were put, and by nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.store.sealing import Seal

ONE, OTHER = Seal(["0123456789abcdef"]), Seal(["fedcba9876543210"])


@given(st.binary(max_size=200), st.text(alphabet="abc:{}", max_size=20))
def test_what_was_sealed_is_read_at_its_place_with_its_key_alone(plain, place):
    sealed = ONE.close(plain, place)
    assert ONE.open(sealed, place) == plain
    assert ONE.open(sealed, place + "x") is None
    assert OTHER.open(sealed, place) is None
    assert Seal().open(sealed, place) is None
    assert len(plain) < 8 or plain not in sealed


@given(st.binary(min_size=1, max_size=60), st.data())
def test_a_sealed_answer_of_which_one_bit_changed_is_not_read(plain, data):
    sealed = bytearray(ONE.close(plain, "here"))
    at = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[at // 8] ^= 1 << at % 8
    assert ONE.open(bytes(sealed), "here") is None


@pytest.mark.parametrize("kept", [b"", b"{}", b"\x01", b"\x01abcd", b"\x00" * 99])
def test_what_somebody_put_there_in_clear_is_not_read_where_answers_are_sealed(kept):
    assert ONE.open(kept, "here") is None


def test_answers_of_an_older_key_are_read_while_it_is_named():
    sealed = OTHER.close(b"x", "here")
    both = Seal(["0123456789abcdef", "fedcba9876543210"])
    assert both.open(sealed, "here") == b"x"
    assert OTHER.open(both.close(b"x", "here"), "here") is None
    assert both.is_on


def test_without_a_key_answers_are_as_they_are():
    assert Seal().close(b"{}", "here") == b"{}"
    assert Seal().open(b"{}", "here") == b"{}"
    assert not Seal().is_on


def test_one_answer_sealed_twice_is_twice_another():
    assert ONE.close(b"x", "here") != ONE.close(b"x", "here")
