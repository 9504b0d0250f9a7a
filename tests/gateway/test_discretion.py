"""The class of a call: the strictest of what is said of it and what stands in it; `local` where one cannot tell."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest

from orchestrator.app.rules import rules_from
from orchestrator.core.errors import CallerError, OrchestratorError
from orchestrator.core.model import Call, Endpoint
from orchestrator.core.privacy import Discretion, Privacy
from orchestrator.core.privacy import Rules as PrivacyRules
from orchestrator.core.target import Provider
from orchestrator.gateway import discretion
from orchestrator.gateway.asked import Asked
from orchestrator.gateway.identity import ANYBODY, Caller
from orchestrator.gateway.live import Rules, Tier
from orchestrator.gateway.request import Request, Sender
from orchestrator.gateway.trace import Trace
from orchestrator.settings import ClusterSettings

IBAN = "TR33 0006 1005 1978 6457 8413 26"
POOL = Tier("small", "little", None)
FAR = Tier("far", "", None, Provider("out", "out.example.com", 443, True, "/v1"), "far-8b", accepts=Privacy.PUBLIC)
TRUSTED = dataclasses.replace(FAR, name="trusted", accepts=Privacy.INTERNAL)
CARELESS = dataclasses.replace(FAR, name="careless", accepts=Privacy.LOCAL)
SETTINGS = ClusterSettings.model_validate(
    {
        "models": {"little": {}},
        "tiers": {"small": {"model": "little"}},
        "routes": {"auto": {"full": "small"}, "home": {"full": "small", "privacy": "local"}},
    }
)


def rules(**privacy: Any) -> Rules:
    return dataclasses.replace(rules_from(SETTINGS), privacy=PrivacyRules(**privacy))


def asked(
    text: str = "Merhaba", *, name: str = "auto", caller: Caller = ANYBODY, header: str = "", **more: Any
) -> Asked:
    request = Request(cast(Sender, None))
    if header:
        request.headers[b"x-privacy"] = header.encode()
    body = {"model": name, "prompt": text, **more}
    call = Call(Endpoint.OLLAMA_GENERATE, name, False, body)
    return Asked(request, cast(Any, None), call, len(str(body)), name, (), "", True, Trace("id", 0.0, caller), None)


STRICT = Caller("strict", privacy=Privacy.LOCAL)
INNER = Caller("inner", privacy=Privacy.INTERNAL)


@pytest.mark.parametrize(
    ("given", "privacy", "why"),
    [
        ({}, "public", "the default"),
        ({"text": IBAN}, "local", "iban"),
        ({"text": "ali@example.com"}, "internal", "e-mail"),
        ({"name": "home"}, "local", "route home"),
        ({"caller": STRICT}, "local", "key strict"),
        ({"caller": INNER}, "internal", "key inner"),
        ({"caller": INNER, "text": "ali@example.com"}, "internal", "key inner, e-mail"),
        ({"caller": INNER, "name": "home"}, "local", "route home"),
        ({"header": "local"}, "local", "X-Privacy"),
        ({"header": "Internal "}, "internal", "X-Privacy"),
        ({"header": "public", "text": IBAN}, "local", "iban"),
        ({"header": "public", "caller": STRICT}, "local", "key strict"),
        ({"images": ["aGVsbG8="]}, "local", discretion.MORE),
        ({"context": [1, 2, 3]}, "local", discretion.MORE),
        ({"text": IBAN, "images": ["aGVsbG8="]}, "local", f"iban, {discretion.MORE}"),
        ({"text": "ve " * 100_000}, "local", "longer than the 262144 letters that are searched"),
    ],
)
async def test_the_strictest_of_all_that_is_said_and_found_wins_and_says_why(given, privacy, why):
    assert await discretion.discretion_of(asked(**given), rules()) == Discretion(Privacy(privacy), why)


async def test_a_class_that_is_none_is_refused_and_not_taken_for_an_open_one():
    for header in ("secret", "loca", "public, local", ""):
        call = asked(header=header or " ")
        with pytest.raises(CallerError, match="public, internal or local") as told:
            await discretion.discretion_of(call, rules())
        assert told.value.status == 400


async def test_what_raises_while_it_is_searched_is_local(monkeypatch):
    def fail(*_: Any) -> None:
        raise RecursionError(IBAN)

    monkeypatch.setattr(discretion, "judge", fail)
    for text in ("short", "long " * 5000):
        found = await discretion.discretion_of(asked(text), rules())
        assert found == Discretion(Privacy.LOCAL, "it could not be searched")


async def test_without_detection_what_is_said_counts_and_what_cannot_be_read_at_all():
    off = rules(detects=False)
    assert (await discretion.discretion_of(asked(IBAN), off)).privacy is Privacy.PUBLIC
    assert (await discretion.discretion_of(asked(header="local"), off)).privacy is Privacy.LOCAL
    assert (await discretion.discretion_of(asked(images=["aGVsbG8="]), off)).privacy is Privacy.LOCAL
    lowered = rules(detects=False, more=Privacy.INTERNAL)
    assert (await discretion.discretion_of(asked(images=["aGVsbG8="]), lowered)).privacy is Privacy.INTERNAL


# --- where it may go -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("privacy", "tiers"),
    [
        (Privacy.PUBLIC, ["small", "far", "trusted", "careless"]),
        (Privacy.INTERNAL, ["small", "trusted", "careless"]),
        (Privacy.LOCAL, ["small"]),  # whatever a tier claims to accept
    ],
)
def test_a_pool_may_have_every_call_and_a_provider_what_it_is_trusted_with(privacy, tiers):
    may = [tier.name for tier in (POOL, FAR, TRUSTED, CARELESS) if discretion.may_go(Discretion(privacy), tier)]
    assert may == tiers


async def test_a_call_that_only_pools_may_answer_is_not_looked_into():
    call = asked(IBAN)
    assert await discretion.allowed(call, rules(), (POOL, POOL)) == (POOL, POOL)
    assert call.trace.discretion is None


async def test_targets_that_may_not_have_it_are_left_out_and_it_is_looked_into_once(monkeypatch):
    call, looks = asked("ali@example.com"), []
    judged = discretion.judged
    monkeypatch.setattr(discretion, "judged", lambda *given: looks.append(1) or judged(*given))
    assert await discretion.allowed(call, rules(), (FAR, POOL, TRUSTED)) == (POOL, TRUSTED)
    assert await discretion.allowed(call, rules(), (FAR, POOL)) == (POOL,)
    assert looks == [1]
    assert "X-Privacy: internal\r\n" in call.trace.fields()


async def test_where_no_target_may_have_it_the_caller_is_told_which_class_and_why_and_nothing_of_the_text():
    with pytest.raises(CallerError) as told:
        await discretion.allowed(asked(IBAN), rules(), (FAR, TRUSTED))
    assert (told.value.status, told.value.kind) == (403, "permission_error")
    assert "is local (iban), and auto has no target" in told.value.message
    assert "0006" not in told.value.message


async def test_the_gate_lets_nothing_out_that_was_not_judged_or_may_not_go():
    call = asked("Merhaba")
    with pytest.raises(OrchestratorError, match="its class is not known"):
        discretion.see_that_it_may_leave(call, FAR)
    await discretion.discretion_of(call, rules())
    discretion.see_that_it_may_leave(call, FAR)
    private = asked(IBAN)
    await discretion.discretion_of(private, rules())
    for tier in (FAR, TRUSTED, CARELESS):
        with pytest.raises(OrchestratorError, match="it is local"):
            discretion.see_that_it_may_leave(private, tier)


# --- what is shared between keys --------------------------------------------------------------------------------------


def test_a_text_is_shared_between_keys_only_if_nothing_private_is_found_in_it():
    private, usual = discretion.Private(), PrivacyRules()
    assert private.has(asked(IBAN).call, usual)
    assert private.has(asked("ali@example.com").call, usual)
    assert private.has(asked(images=["aGVsbG8="]).call, usual)
    assert private.has(asked("ve " * 1000).call, usual), "too long to be searched before each answer"
    assert not private.has(asked("Kediler neden mırlar?").call, usual)
    assert not private.has(asked(IBAN).call, PrivacyRules(detects=False))
