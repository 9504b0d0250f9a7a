"""Tokens looked at by the gateway's own part: what one opens, what is refused and why, when an issuer is asked."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from orchestrator.app.rules import issuer_of, rules_from
from orchestrator.core.errors import CallerError, CapacityError, SettingsError
from orchestrator.gateway import issuer_keys
from orchestrator.gateway.grants import Issuer, caller_from, looked_at
from orchestrator.gateway.identity import ADMIN, INFER, Caller, digest_of
from orchestrator.gateway.signing_keys import FetchError, keys_in
from orchestrator.gateway.tokens import MAX_BYTES, Tokens
from orchestrator.settings import ClusterSettings
from orchestrator.settings.access import IssuerSettings
from tests.issuer.issuing import AUDIENCE, Signer, claims, encoded, signer
from tests.waiting import until

URL = "https://login.example.com/realms/main"
GRANTS: dict[str, Any] = {
    "admins": {"when": {"realm_access.roles": ["ops", "boss"]}, "admin": True, "priority": 0},
    "staff": {"when": {"groups": "gpu-users"}, "models": ["llama*"], "tenant": "acme", "priority": 3},
    "robots": {"when": {"scope": "infer", "azp": "robot"}, "limits": {"rpm": 5}, "privacy": "local"},
}
ONE, EC, ED, STRANGER = signer(), signer("ES256", "ec"), signer("EdDSA", "ed"), signer("RS256", "one")


def settings(**other: Any) -> IssuerSettings:
    return IssuerSettings.model_validate({"url": URL, "audience": [AUDIENCE], "grants": GRANTS, **other})


def key_set(*keys: Signer) -> str:
    return json.dumps({"keys": [each.public for each in keys]})


@pytest_asyncio.fixture
async def tokens(tmp_path: Path) -> AsyncIterator[Tokens]:
    path = tmp_path / "keys.json"
    path.write_text(key_set(ONE, EC, ED))
    issuers = {URL: issuer_of("company", settings(jwks_file=path))}
    found = Tokens(lambda: issuers)
    yield found
    await found.keys.close()


async def opened(tokens: Tokens, token: str) -> Caller:
    return await tokens.caller(token, digest_of(token))


async def refusal(tokens: Tokens, token: str) -> str:
    with pytest.raises(CallerError) as refused:
        await opened(tokens, token)
    assert (refused.value.status, refused.value.kind) == (401, "authentication_error")
    assert tokens.known(digest_of(token)) is None
    for part in token.split("."):
        assert not part or part not in str(refused.value)
    return str(refused.value)


# --- what a token opens -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [ONE, Signer("one", "PS256", ONE.private), EC, ED], ids=lambda each: each.algorithm)
async def test_a_token_is_taken_by_each_kind_of_signature_and_then_known_by_its_digest(tokens, key):
    token = key.token(claims(URL))
    caller = await opened(tokens, token)
    assert (caller.name, caller.scopes, caller.models) == ("company/alice", {INFER}, ("llama*",))
    assert (caller.tenant, caller.priority, caller.by) == ("acme", 3, "token")
    assert tokens.known(digest_of(token)) is caller


async def test_what_is_known_ends_with_the_token_and_with_the_keys_it_was_looked_at_by(tokens):
    token = ONE.token(claims(URL))
    caller = await opened(tokens, token)
    assert caller.until_s == json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["exp"] + 30
    tokens._clock = lambda: caller.until_s
    assert tokens.known(digest_of(token)) is None
    tokens._clock = time.time
    assert tokens.known(digest_of(token)) is caller
    tokens.forget()
    assert tokens.known(digest_of(token)) is None


async def test_no_more_tokens_are_remembered_than_there_is_room_for(tokens, monkeypatch):
    monkeypatch.setattr("orchestrator.gateway.tokens.KNOWN_AT_MOST", 2)
    made = [EC.token(claims(URL, jti=str(number))) for number in range(3)]
    for each in made:
        await opened(tokens, each)
    assert [tokens.known(digest_of(each)) is not None for each in made] == [False, True, True]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"groups": "gpu-users"}, (INFER,)),
        ({"groups": ["x", "gpu-users"]}, (INFER,)),
        ({"groups": ["gpu-users"], "realm_access": {"roles": ["boss"]}}, (INFER, ADMIN)),
        ({"groups": None, "scope": "openid infer", "azp": "robot"}, (INFER,)),
        ({"groups": None, "scope": "infer", "azp": "other"}, None),
        ({"groups": None}, None),
        ({"groups": ["GPU-USERS"]}, None),
        ({"groups": {"gpu-users": True}}, None),
        ({"groups": "gpu-users other"}, None),
    ],
)
async def test_the_first_grant_that_fits_holds_and_nothing_is_granted_without_one(tokens, said, expected):
    token = EC.token(claims(URL, **said))
    if expected is not None:
        assert (await opened(tokens, token)).scopes == set(expected)
        return
    with pytest.raises(CallerError) as refused:
        await opened(tokens, token)
    assert refused.value.status == 403
    assert str(refused.value) == "the token of company/alice is good for nothing here: no grant of company fits it"


def issuer(**other: Any) -> Issuer:
    return issuer_of("company", settings(**other))


def test_a_name_is_never_that_of_a_key_of_another_issuers_caller_or_of_another_value():
    def name(value: object, **other: Any) -> str:
        return caller_from(issuer(**other), {**claims(URL), "sub": value}, "token", 0.0).name

    assert name("alice") == "company/alice"
    assert name("auth0|7/../x") == "company/auth0%7C7%2F..%2Fx"
    assert name("a|b") != name("a%7Cb")
    long = 70 * "a"
    assert len(name(long)) <= 80
    assert name(long) != name(long + "a") != name(name(long).partition("/")[2])
    for nobody in (None, "", [], {"a": 1}):
        with pytest.raises(CallerError, match="has no 'sub'"):
            name(nobody)


def test_an_address_of_mail_names_somebody_only_if_the_issuer_verified_it():
    told = {**claims(URL), "email": "alice@example.com"}
    by_mail = issuer(name_claim="email", tenant_claim="org")
    caller = caller_from(by_mail, {**told, "groups": "x", "scope": "infer", "azp": "robot", "org": "b c"}, "token", 0)
    assert (caller.name, caller.tenant) == ("company/alice@example.com", "b%20c")
    with pytest.raises(CallerError, match="not verified"):
        caller_from(by_mail, {**told, "email_verified": False}, "token", 0)


@pytest.mark.parametrize(
    ("verified", "is_boss"), [({}, True), ({"email_verified": True}, True), ({"email_verified": False}, False)]
)
def test_a_grant_by_an_address_of_mail_is_for_who_was_found_to_have_it(verified, is_boss):
    by_mail = issuer(grants={"boss": {"when": {"email": "boss@example.com"}, "admin": True}})
    said = {**claims(URL), "email": "boss@example.com", **verified}
    for told in (said, looked_at(by_mail, said)):
        if is_boss:
            assert ADMIN in caller_from(by_mail, told, "login", 1.0).scopes
        else:
            with pytest.raises(CallerError, match="no grant"):
                caller_from(by_mail, told, "login", 1.0)


def test_a_login_remembers_of_the_claims_what_grants_look_at_and_is_worth_the_same_by_it():
    said = {**claims(URL), "groups": ["gpu-users", *map(str, range(500))], "realm_access": {"roles": ["a", "ops"]}}
    kept = looked_at(issuer(), said)
    assert len(json.dumps(kept)) < 200
    assert caller_from(issuer(), kept, "login", 1.0) == caller_from(issuer(), said, "login", 1.0)


# --- what is refused --------------------------------------------------------------------------------------------------


def _hs256_by_the_public_key() -> str:
    """What a verifier takes that has one key for all algorithms."""
    pem = json.dumps(ONE.public).encode()
    body = f"{encoded({'alg': 'HS256', 'kid': 'one'})}.{encoded(claims(URL))}"
    return f"{body}.{encoded(hmac.digest(pem, body.encode(), hashlib.sha256))}"


def _altered() -> str:
    head, _, signature = ONE.token(claims(URL)).split(".")
    return f"{head}.{encoded(claims(URL, sub='boss'))}.{signature}"


NOW_S, DAY_S = int(time.time()), 86_400


def lasting(issuer: str, **other: Any) -> dict[str, Any]:
    """Made as tests are collected, and used when it is their turn."""
    return claims(issuer, **{"exp": NOW_S + DAY_S, **other})


ATTACKS = {
    "alg none": (
        f"{encoded({'alg': 'none'})}.{encoded(lasting(URL))}.",
        "is signed in a way that company is not said to use",
    ),
    "HS256 by the public key": (_hs256_by_the_public_key(), "is signed in a way that company is not said to use"),
    "an algorithm of another kind of key": (
        f"{encoded({'alg': 'ES256', 'kid': 'one'})}.{encoded(lasting(URL))}.{encoded(64 * b'a')}",
        "is signed by a key that company does not publish",
    ),
    "another issuer": (ONE.token(lasting("https://evil.example.com")), "is of an issuer that the settings do not name"),
    "no issuer": (ONE.token(lasting(URL, iss=None)), "is of an issuer that the settings do not name"),
    "an issuer that is a list": (ONE.token(lasting(URL, iss=[URL])), "is of an issuer that the settings do not name"),
    "another audience": (ONE.token(lasting(URL, aud="else")), "is made for somebody else: here it must be for ollama"),
    "no audience": (ONE.token(lasting(URL, aud=None)), "has no `aud`, which is needed"),
    "expired": (ONE.token(lasting(URL, exp=NOW_S - 3600)), "ended on 20"),
    "no end": (ONE.token(lasting(URL, exp=None)), "has no `exp`, which is needed"),
    "an end that is none": (ONE.token(lasting(URL, exp="never")), "has a claim that is not as it should be"),
    "begins later": (ONE.token(lasting(URL, nbf=NOW_S + DAY_S)), "is not valid yet"),
    "made later": (ONE.token(lasting(URL, iat=NOW_S + DAY_S)), "is not valid yet"),
    "an unknown key": (ONE.token(lasting(URL), kid="two"), "is signed by a key that company does not publish"),
    "a key that is a path": (
        ONE.token(lasting(URL), kid="../../../../dev/null"),
        "is signed by a key that company does not publish",
    ),
    "a key that is no text": (
        f"{encoded({'alg': 'RS256', 'kid': {'a': 1}})}.{encoded(lasting(URL))}.{encoded(256 * b'a')}",
        "names its key by something that is no name",
    ),
    "no name where there are several keys": (
        f"{encoded({'alg': 'PS256', 'kid': ''})}.{encoded(lasting(URL))}.{encoded(256 * b'a')}",
        "is signed by a key that company does not publish",
    ),
    "another key of that name": (STRANGER.token(lasting(URL)), "has a wrong signature"),
    "its own key in its head": (STRANGER.token(lasting(URL), jwk=STRANGER.public), "has a wrong signature"),
    "altered claims": (_altered(), "has a wrong signature"),
    "no signature": (ONE.token(lasting(URL)).rpartition(".")[0] + ".", "has a wrong signature"),
    "an extension": (ONE.token(lasting(URL), crit=["b64"], b64=True), "asks for extensions that are not known here"),
    "of a logout": (ONE.token(lasting(URL), typ="logout+jwt"), "is one for another purpose"),
    "bound to a key": (ONE.token(lasting(URL, cnf={"jkt": "x"})), "is bound to a key of its holder's"),
    "too long": (ONE.token(lasting(URL, more="x" * MAX_BYTES)), "is longer than 16 KiB"),
    "endless brackets": (f"eyJ.{encoded(5000 * b'[')}.x", "is none"),
    "not base64": ("ey!.ey!.x", "is none"),
    "beyond ASCII": ("eyğ.eyğ.x", "is none"),
    "parts that are no objects": (f"{encoded([1])}.{encoded([1])}.x", "is none: its parts are no objects"),
}


@pytest.mark.parametrize(("token", "why"), ATTACKS.values(), ids=ATTACKS)
async def test_a_token_that_is_not_as_it_should_be_opens_nothing_and_is_told_why_without_being_quoted(
    tokens, token, why
):
    assert (await refusal(tokens, token)).startswith(f"the token {why}")


async def test_a_clock_may_be_off_by_the_leeway(tokens):
    assert await opened(tokens, EC.token(claims(URL, exp=int(time.time()) - 10, nbf=int(time.time()) + 10)))


async def test_no_address_in_a_tokens_head_is_followed(tokens, monkeypatch):
    def nobody(*_: object) -> None:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(tokens.keys, "_http", nobody)
    for name in ("jku", "x5u"):
        assert "wrong signature" in await refusal(tokens, STRANGER.token(claims(URL), **{name: "http://127.0.0.1:1/"}))


# --- keys -------------------------------------------------------------------------------------------------------------


def test_of_published_keys_only_those_that_can_check_a_signature_are_taken():
    short = {**ONE.public, "n": encoded((1 << 1023 | 1).to_bytes(128, "big"))}
    others = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "one"},
        {**ONE.public, "use": "enc"},
        {**ONE.public, "key_ops": ["encrypt"]},
        {**ONE.public, "key_ops": 7},
        {**ONE.public, "alg": "HS256"},
        {**EC.public, "crv": "P-384"},
        {**EC.public, "x": EC.public["y"], "y": EC.public["y"]},
        {"kty": ["RSA"]},
        short,
        "a text",
    ]
    found = keys_in(json.dumps({"keys": [*others, ONE.secret, ED.public]}).encode())
    assert [(each.id, each.algorithms) for each in found] == [("one", ("RS256",)), ("ed", ("EdDSA",))]
    assert not hasattr(found[0].public, "private_numbers")
    for nothing in (json.dumps({"keys": others}), "[]", "no JSON", json.dumps({"keys": 70 * [ONE.public]})):
        with pytest.raises(FetchError):
            keys_in(nothing.encode())


def test_a_file_without_keys_is_refused_with_the_settings(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text('{"keys": []}')
    said = {"models": {"m": {}}, "issuers": {"company": settings(jwks_file=path).model_dump()}}
    with pytest.raises(SettingsError, match="none of its keys is for signatures"):
        rules_from(ClusterSettings.model_validate(said))


@dataclass
class Publisher:
    """Says what an issuer says of itself (a stand-in: the real one is in test_issuer)."""

    keys: str = field(default_factory=lambda: key_set(ONE))
    asked: int = 0
    is_away: bool = False
    url: str = ""
    name: str = ""

    async def about(self, _: web.Request) -> web.Response:
        return web.json_response({"issuer": self.name or self.url, "jwks_uri": f"{self.url}/keys"})

    async def publish(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(status=503) if self.is_away else web.Response(text=self.keys)


@pytest_asyncio.fixture
async def publisher() -> AsyncIterator[Publisher]:
    one = Publisher()
    app = web.Application()
    app.add_routes([web.get("/.well-known/openid-configuration", one.about), web.get("/keys", one.publish)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    await runner.cleanup()


@pytest_asyncio.fixture
async def asking(publisher: Publisher) -> AsyncIterator[Tokens]:
    """Tokens of an issuer that is asked over HTTP."""
    issuers = {publisher.url: issuer(url=publisher.url)}
    found = Tokens(lambda: issuers)
    yield found
    await found.keys.close()


async def test_garbage_has_an_issuer_asked_once_and_a_known_key_serves_meanwhile(asking, publisher):
    storm = [STRANGER.token(claims(publisher.url), kid=f"no-{number}") for number in range(50)]
    results = await asyncio.gather(*(opened(asking, each) for each in storm), return_exceptions=True)
    assert {type(each) for each in results} == {CallerError}
    assert (await opened(asking, ONE.token(claims(publisher.url)))).name == "company/alice"
    assert publisher.asked == 1


async def test_a_new_key_is_found_by_the_token_that_names_it_and_one_withdrawn_opens_nothing(
    asking, publisher, monkeypatch
):
    monkeypatch.setattr(issuer_keys, "UNKNOWN_AGAIN_S", 0.0)
    old, new = ONE.token(claims(publisher.url)), EC.token(claims(publisher.url))
    await opened(asking, old)
    publisher.keys = key_set(EC)
    assert (await opened(asking, new)).name == "company/alice"
    assert asking.known(digest_of(old)) is None
    assert "does not publish" in await refusal(asking, old)


async def test_an_issuer_that_was_never_reached_is_no_mistake_of_the_callers(asking, publisher):
    publisher.is_away = True
    with pytest.raises(CapacityError, match=r"company are not known yet: /keys answers 503") as refused:
        await opened(asking, ONE.token(claims(publisher.url)))
    assert (refused.value.status, refused.value.retry_after_s) == (503, 5)


async def test_while_an_issuer_is_away_its_keys_of_before_are_right_for_a_day(asking, publisher, monkeypatch):
    monkeypatch.setattr(issuer_keys, "UNKNOWN_AGAIN_S", 0.0)
    token = ONE.token(claims(publisher.url))
    await opened(asking, token)
    publisher.is_away = True
    keys = asking.keys.of(issuer(url=publisher.url))
    await keys.refresh()
    assert (await opened(asking, token)).name == "company/alice"
    monkeypatch.setattr(issuer_keys, "KEPT_S", 0.0)
    await keys.refresh()
    assert asking.known(digest_of(token)) is None
    with pytest.raises(CapacityError):
        await opened(asking, token)


async def test_who_calls_himself_otherwise_is_another_issuer(asking, publisher):
    publisher.name = publisher.url + "/"
    with pytest.raises(CapacityError, match="it calls itself by another name"):
        await opened(asking, ONE.token(claims(publisher.url)))


async def test_keys_are_asked_for_behind_all_calls_once_there_are_settings_for_it(publisher):
    issuers: dict[str, Issuer] = {}
    found = Tokens(lambda: issuers)
    found.keys.start()
    issuers[publisher.url] = issuer(url=publisher.url)
    found.keys.stir()
    await until(lambda: publisher.asked)
    await found.keys.close()
