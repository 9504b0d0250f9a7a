"""Who is asking: what a key opens and until when, which models are there for it, and how far forward it may go."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from orchestrator.app.rules import rules_from
from orchestrator.core.errors import CallerError
from orchestrator.gateway.asked import priority_of
from orchestrator.gateway.identity import ADMIN, ANYBODY, INFER, MODELS, Caller, Key, Keys, digest_of
from orchestrator.settings import ClusterSettings
from tests.gateway.asking import Reply, ask, get
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import standing_in
from tests.waiting import until

SECRET = "0123456789abcdef"
TEAM = Caller("team")


def bearer(secret: str = SECRET) -> str:
    return f"Bearer {secret}"


def refusal(keys: Keys, secret: str = SECRET, scope: str = INFER) -> CallerError:
    with pytest.raises(CallerError) as refused:
        keys.with_scope(bearer(secret), "", scope)
    return refused.value


def test_without_keys_anybody_may_ask_and_see_and_nobody_may_change_models():
    keys = Keys([])
    assert keys.is_open
    assert keys.caller("") is keys.with_scope("", "", ADMIN) is ANYBODY
    refused = refusal(keys, scope=MODELS)
    assert (refused.status, str(refused)) == (
        403,
        "this needs an API key with the scope models, and no keys are configured",
    )


def test_an_endpoint_that_waits_for_its_first_key_lets_nobody_in():
    keys = Keys([], is_open=False)
    assert not keys.is_open
    assert refusal(keys).status == 401


def test_a_key_opens_what_its_scopes_say_and_is_told_which_it_lacks():
    keys = Keys([Key(digest_of(SECRET), Caller("puller", frozenset({MODELS})))])
    assert keys.with_scope(bearer(), "", MODELS).name == keys.caller("", SECRET).name == "puller"
    for scope in (INFER, ADMIN):
        refused = refusal(keys, scope=scope)
        assert (refused.status, refused.kind) == (403, "permission_error")
        assert str(refused) == f"the key of puller may not do this: it needs the scope {scope}, and has models"


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_key_past_its_end_is_told_so_and_opens_nothing(is_replaced):
    keys = Keys([Key(digest_of(SECRET), TEAM, time.time() - 1, is_replaced)])
    refused = refusal(keys)
    assert (refused.status, refused.kind) == (401, "authentication_error")
    assert f"this API key of team {'was replaced by a newer one and ended' if is_replaced else 'ended'} on 20" in str(
        refused
    )
    assert SECRET not in str(refused)


def test_a_key_before_its_end_opens():
    keys = Keys([Key(digest_of(SECRET), TEAM, time.time() + 60)])
    assert keys.caller(bearer()) is TEAM


def test_every_secret_of_a_key_opens_the_same():
    keys = Keys([Key(digest_of(each), TEAM) for each in (SECRET, SECRET[::-1])])
    assert keys.caller(bearer()) is keys.caller(bearer(SECRET[::-1])) is TEAM


@pytest.mark.parametrize(
    ("globs", "model", "may"),
    [
        (None, "whatever", True),
        (("llama3.2",), "llama3.2:latest", True),
        (("llama3.2:latest",), "LLAMA3.2", True),
        (("llama3.2",), "llama3.2:3b", False),
        (("llama3*", "auto"), "llama3.2:3b-instruct-q4_K_M", True),
        (("llama3*", "auto"), "auto", True),
        (("llama3*", "auto"), "qwen3", False),
        (("llama3*",), "mine/llama3", False),
        (("llama3*",), "registry.ollama.ai/library/llama3.2", True),
        (("mine/*",), "mine/llama3:70b", True),
    ],
)
def test_models_are_allowed_by_globs_whatever_the_spelling(globs, model, may):
    assert Caller("team", models=globs).may_use(model) is may


@pytest.mark.parametrize(
    ("best", "header", "priority"), [(0, None, 0), (3, None, 3), (3, "0", 3), (3, "5", 5), (0, "7", 7), (9, "9", 9)]
)
def test_a_call_is_of_its_keys_class_or_of_a_later_one_that_it_asks_for(best, header, priority):
    headers: Mapping[bytes, bytes] = {} if header is None else {b"x-priority": header.encode()}
    request = SimpleNamespace(headers=headers, header=lambda name: headers[name].decode())
    asked: Any = SimpleNamespace(request=request, trace=SimpleNamespace(caller=Caller("team", priority=best)))
    assert priority_of(asked) == priority


def test_settings_say_all_of_it():
    digest, old = (f"sha256:{digest_of(each).hex()}" for each in ("by digest", "of before"))
    keys: list[dict[str, Any]] = [
        {"name": "plain", "secret": SECRET},
        {"name": "boss", "secret": SECRET[::-1], "admin": True},
        {"name": "whole", "digest": digest, "scopes": ["models"], "models": ["llama*"], "priority": 4},
    ]
    keys[-1] |= {"tenant": "acme", "expires": "2100-01-01", "old": [{"digest": old, "until": "2099-01-01"}]}
    rules = rules_from(ClusterSettings.model_validate({"models": {"m": {}}, "keys": keys}))
    found = {each.caller.name: each for each in rules.keys if not each.is_replaced}
    assert {name: each.caller.scopes for name, each in found.items()} == {
        "plain": {INFER},
        "boss": {INFER, ADMIN},
        "whole": {MODELS},
    }
    whole = rules.keys.caller(bearer("by digest"))
    assert whole is found["whole"].caller
    assert rules.keys.caller(bearer("of before")) == whole
    assert (whole.models, whole.priority, whole.tenant) == (("llama*",), 4, "acme")


# --- over HTTP --------------------------------------------------------------------------------------------------------

with_the_guarded = pytest.mark.asyncio(loop_scope="module")

FEW, EVERY, PULLER, LATE, BOSS = "few" * 6, "every" * 4, "puller" * 3, "late" * 5, "boss" * 5
PATHS = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages", "/api/embed")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Played]:
    keys = [
        {"name": "few", "secret": FEW, "models": ["little*", "support"]},
        {"name": "every", "secret": EVERY},
        {"name": "puller", "secret": PULLER, "scopes": ["models"]},
        {"name": "late", "secret": LATE, "expires": "2020-01-01"},
        {"name": "boss", "secret": BOSS, "scopes": ["admin", "infer"], "tenant": "acme"},
    ]
    details = [
        {"tags": {"name": name, "modified_at": "2026-01-01T00:00:00Z"}, "ps": {"name": name}, "show": {"modelfile": ""}}
        for name in ("little:1b", "big:8b")
    ]
    tiers = {"small": {"model": "little:1b"}, "full": {"model": "big:8b"}}
    whole = {"models": {"little:1b": {}, "big:8b": {}}, "tiers": tiers, "routes": {"auto": {}, "support": {}}}
    async with standing_in(2) as (little, big):
        settings = ClusterSettings.model_validate({**whole, "keys": keys})
        pools = [
            pool_of(name, [each.port], details=told)
            for name, each, told in zip(("little:1b", "big:8b"), (little, big), details, strict=True)
        ]
        async with played(tmp_path_factory.mktemp("keys"), settings, pools) as world:
            yield world


def headers(secret: str) -> dict[str, str]:
    return {"Authorization": bearer(secret)}


async def calls_of(world: Played, caller: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (
        await get(world.url, f"/status/calls?caller={caller}", headers=headers(BOSS))
    ).json()["calls"]
    return found


def names(reply: Reply) -> set[str]:
    told = reply.json()
    return {each.get("name") or each.get("id") for each in told.get("models", told.get("data"))}


@with_the_guarded
async def test_a_model_that_is_not_the_keys_is_not_there_for_it_in_any_dialect(guarded):
    for path in PATHS:
        for model in ("big:8b", "BIG:8B", "auto"):
            refused = await ask(guarded.url, path, "hi", model=model, headers=headers(FEW))
            unknown = await ask(guarded.url, path, "hi", model="nobody:8b", headers=headers(FEW))
            assert (refused.status, unknown.status) == (404, 404)
            its_own = "little:1b" if path == "/api/embed" else "support, little:1b"
            assert refused.headers["X-Models"] == unknown.headers["X-Models"] == its_own
            told, of_none = refused.body.decode(), unknown.body.decode().replace("nobody:8b", model)
            assert told.partition('"request_id"')[0] == of_none.partition('"request_id"')[0]
    shown = await ask(guarded.url, "/api/show", "", model="big:8b", headers=headers(FEW))
    named = await get(guarded.url, "/v1/models/big:8b", headers=headers(FEW))
    assert (shown.status, named.status) == (404, 404)


@with_the_guarded
async def test_lists_show_each_key_its_own_models(guarded):
    assert names(await get(guarded.url, "/api/tags", headers=headers(FEW))) == {"little:1b", "support"}
    assert names(await get(guarded.url, "/v1/models", headers=headers(FEW))) == {"little:1b", "support"}
    assert names(await get(guarded.url, "/api/ps", headers=headers(FEW))) == {"little:1b"}
    everything = {"little:1b", "big:8b", "auto", "support"}
    for secret in (EVERY, PULLER):
        assert names(await get(guarded.url, "/api/tags", headers=headers(secret))) == everything


@with_the_guarded
async def test_a_key_asks_for_its_own_models_and_its_routes_go_where_the_operator_sends_them(guarded):
    for model in ("little:1b", "support"):
        reply = await ask(guarded.url, "/api/chat", "hi", model=model, stream=False, headers=headers(FEW))
        assert reply.status == 200
    hard = "Prove step by step that the sum of two odd numbers is even, then write a Python program for it."
    routed = await ask(guarded.url, "/api/chat", hard, model="support", stream=False, headers=headers(FEW))
    assert (routed.status, routed.headers["X-Tier"]) == (200, "full")


@with_the_guarded
async def test_what_a_key_may_not_do_and_that_it_has_ended_is_said_in_the_callers_dialect(guarded):
    for path in PATHS:
        refused = await ask(guarded.url, path, "hi", model="little:1b", headers=headers(PULLER))
        assert refused.status == 403
        assert "it needs the scope infer, and has models" in refused.body.decode()
        ended = await ask(guarded.url, path, "hi", model="little:1b", headers=headers(LATE))
        assert ended.status == 401
        assert "this API key of late ended on 2020-01-01 00:00 UTC" in ended.body.decode()
        is_native = path.startswith("/api/")
        assert isinstance(ended.json()["error"], str) is isinstance(refused.json()["error"], str) is is_native


@with_the_guarded
async def test_what_a_tenants_keys_use_is_counted_together_and_stands_in_its_records(guarded):
    reply = await ask(guarded.url, "/api/chat", "hi", model="big:8b", stream=False, headers=headers(BOSS))
    assert reply.status == 200
    told = (await get(guarded.url, "/metrics", headers=headers(BOSS))).body.decode()
    counted = (line.rpartition(" ") for line in told.splitlines() if line.startswith("olm_tenant"))
    lines = {name: float(count) for name, _, count in counted}
    assert lines['olm_tenant_calls_total{outcome="ok",tenant="acme"}'] == 1
    assert lines['olm_tenant_tokens_total{kind="completion",tenant="acme"}'] == 3
    calls = await until(lambda: calls_of(guarded, "boss"))  # records are written a second later
    assert [each["tenant"] for each in calls] == ["acme"]


@with_the_guarded
async def test_the_status_says_which_keys_have_ended(guarded):
    told = (await get(guarded.url, "/status.json", headers=headers(BOSS))).json()
    assert told["keys_ending"] == [{"name": "late", "what": "ended", "at": "2020-01-01 00:00 UTC"}]
    assert "the API key late ended on 2020-01-01 00:00 UTC" in told["notes"]
