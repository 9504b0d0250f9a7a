"""A gateway that knows nobody but a real issuer's people: oidc-provider, which is certified for OpenID Connect."""

from __future__ import annotations

import asyncio
import base64
import html
import json
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import pytest_asyncio
from click.testing import CliRunner
from playwright.async_api import Page, async_playwright, expect

from orchestrator.app import settings_in_use
from orchestrator.app.mirroring import sessions_key
from orchestrator.app.paths import StatePaths
from orchestrator.app.rules import issuer_of
from orchestrator.cli.main import main
from orchestrator.gateway.grants import shape_of
from orchestrator.settings import ClusterSettings
from orchestrator.store.sealing import Seal
from tests.gateway.asking import Reply, ask, get
from tests.gateway.played import Played, played, pool_of
from tests.gateway.stand_in import standing_in
from tests.issuer.issuing import AUDIENCE, Provider, Signer, claims, providing, signer
from tests.nodes.simulators import free_port
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATHS = ("/api/chat", "/v1/chat/completions", "/v1/messages")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
# What the page says with each request.
OWN = {"X-Requested-With": "ollamactl"}
FIRST, SECOND = signer(key_id="first"), signer("ES256", "second")


class World:
    """A gateway, and an issuer that may be started again."""

    def __init__(self, gateway: Played, stack: ExitStack) -> None:
        self.gateway, self.url, self._stack = gateway, gateway.url, stack
        self.paths = StatePaths(gateway.state)
        self._port = free_port()
        self.back = f"{self.url}/status/login/back"
        self.provider: Provider = stack.enter_context(providing(self._port, self.back, FIRST))

    @property
    def settings(self) -> ClusterSettings:
        return told(self.provider.url, self.url)

    def read_again(self) -> None:
        """As the supervisor has it done after a change."""
        settings_in_use.write(self.paths, self.settings)
        self.gateway.gateways[0].send_signal(signal.SIGHUP)

    def rotate(self, *keys: Signer) -> None:
        """The issuer ends, and signs with other keys from then on; with none it stays away."""
        self._stack.close()
        if keys:
            self.provider = self._stack.enter_context(providing(self._port, self.back, *keys))

    async def ask(self, token: str, path: str = "/api/chat", model: str = "m") -> Reply:
        return await ask(self.url, path, "hi", model=model, stream=False, headers={"Authorization": f"Bearer {token}"})

    async def until_answered(self, token: str) -> None:
        await until(lambda: self.ask(token), holds=lambda seen: seen.status == 200)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(follow_redirects=False, timeout=30)


def limits_shown(world: World) -> str:
    """What `ollamactl limits` prints."""
    argv = ["limits", "--endpoint", world.url, "--state", str(world.paths.root)]
    return CliRunner().invoke(main, argv, env={"OLLAMACTL_KEY": settings_in_use.asking_key(world.paths)}).output


def told(issuer: str, page: str) -> ClusterSettings:
    grants: dict[str, Any] = {
        "admins": {"when": {"groups": "gpu-admins"}, "admin": True},
        "users": {"when": {"groups": "gpu-users"}, "models": ["m"], "limits": {"rpm": 1000}, "tenant": "acme"},
    }
    login = {"client_id": "page", "client_secret": "the-pages-secret", "url": page, "scopes": ["openid", "groups"]}
    company = {"url": issuer, "audience": [AUDIENCE], "grants": grants, "login": login}
    return ClusterSettings.model_validate({"models": {"m": {}, "other": {}}, "issuers": {"company": company}})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Begun with an issuer that is not there: what the settings say is live."""
    nowhere = told(f"http://127.0.0.1:{free_port()}", "http://127.0.0.1:1")
    async with standing_in(1) as (instance,):
        pools = [pool_of(name, [instance.port]) for name in ("m", "other")]
        async with played(tmp_path_factory.mktemp("issuer"), nowhere, pools) as gateway:
            with ExitStack() as stack:
                world = World(gateway, stack)
                world.read_again()
                await world.until_answered(world.provider.robots_token())
                yield world


# --- calls ------------------------------------------------------------------------------------------------------------


async def test_without_keys_and_with_an_issuer_nobody_unknown_is_let_in(world):
    for path in PATHS:
        refused = await ask(world.url, path, "hi", model="m")
        assert refused.status == 401
        assert "an API key, or a token of company, is needed" in refused.body.decode()
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    own = {"Authorization": f"Bearer {settings_in_use.asking_key(world.paths)}"}
    assert (await get(world.url, "/status.json", headers=own)).json()["keys"] == "needed"


async def test_an_issuers_token_is_answered_in_every_dialect_and_counted_as_its_caller(world):
    token = world.provider.robots_token()
    for path in PATHS:
        assert (await world.ask(token, path)).status == 200
    assert (await world.ask(token, model="other")).status == 404
    seen = await get(world.url, "/status.json", headers={"Authorization": f"Bearer {token}"})
    assert (seen.status, "the token of company/robot may not do this" in seen.body.decode()) == (403, True)
    await until(
        lambda: world.ask(token),
        holds=lambda seen: int(seen.headers["X-RateLimit-Remaining-Requests"]) <= 1000 - len(PATHS),
    )  # what is used is looked at every few seconds
    own = {"Authorization": f"Bearer {settings_in_use.asking_key(world.paths)}"}
    shown = await until(  # who asked is told every few seconds
        lambda: asyncio.to_thread(limits_shown, world), holds=lambda shown: "company/robot" in shown
    )
    assert re.search(r"key:company/robot +requests a minute +[1-9]\d* / 1,000", shown)
    reply = await until(
        lambda: get(world.url, "/status/calls?caller=company/robot", headers=own),
        holds=lambda reply: reply.json()["calls"],
    )
    assert {each["tenant"] for each in reply.json()["calls"]} == {"acme"}
    metrics = (await get(world.url, "/metrics", headers=own)).body.decode()
    assert 'olm_access_tokens_total{issuer="company",outcome="taken"}' in metrics
    assert 'olm_issuer_up{issuer="company"} 1.0' in metrics


async def test_what_is_wrong_with_a_token_is_told_in_the_callers_dialect(world):
    now_s = int(time.time())
    wrong = {
        "ended on": claims(world.provider.url, exp=now_s - 600),
        "is made for somebody else": claims(world.provider.url, aud="page"),
        "is of an issuer that the settings do not name": claims("http://127.0.0.1:1"),
    }
    for why, said in wrong.items():
        token = FIRST.token(said)
        for path in PATHS:
            refused = await world.ask(token, path)
            assert (refused.status, why in refused.body.decode()) == (401, True)
            assert token[:20] not in refused.body.decode()
            assert isinstance(refused.json()["error"], str) is path.startswith("/api/")
    assert "Bearer" not in world.gateway.logs()


async def test_an_issuer_rotates_its_keys_and_may_be_away(world):
    old = world.provider.robots_token()
    world.rotate(SECOND)
    new = world.provider.robots_token()
    world.read_again()
    await world.until_answered(new)
    refused = await world.ask(old)
    assert (refused.status, "a key that company does not publish" in refused.body.decode()) == (401, True)
    other = SECOND.token(claims(world.provider.url))
    world.rotate()
    assert (await world.ask(new)).status == (await world.ask(other)).status == 200
    world.rotate(FIRST)
    world.read_again()
    await world.until_answered(world.provider.robots_token())


# --- logging in -------------------------------------------------------------------------------------------------------


async def log_in(world: World, client: httpx.AsyncClient, who: str) -> httpx.Response:
    """As a browser goes through it; the gateway's answer to whom the issuer sends back is not followed."""
    reply = await client.get(f"{world.url}/status/login")
    while not str(reply.headers.get("location", "")).startswith(world.back):
        if reply.is_redirect:
            reply = await client.get(reply.next_request.url if reply.next_request else "")
            continue
        form: dict[str, str] = dict(re.findall(r'name="(\w+)" value="(\w*)"', reply.text))
        form |= {"login": who, "password": "any"} if "password" in reply.text else {}
        action = re.search(r'action="([^"]+)"', reply.text)
        assert action, reply.text
        reply = await client.post(html.unescape(action[1]), data=form)
    return await client.get(reply.headers["location"])


@pytest_asyncio.fixture(loop_scope="module")
async def alice(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.client() as client:
        reply = await log_in(world, client, "alice")
        assert (reply.status_code, reply.headers["location"]) == (302, f"{world.url}/status")
        session = next(each for each in reply.headers.get_list("set-cookie") if each.startswith("olm_session="))
        assert all(term in session for term in ("HttpOnly", "SameSite=Strict", "Max-Age=", "Path=/"))
        yield client


async def status(world: World, client: httpx.AsyncClient, **headers: str) -> int:
    return (await client.get(f"{world.url}/status.json", headers={**OWN, **headers})).status_code


async def test_an_admin_logs_in_sees_asks_and_logs_out(world, alice):
    assert (await alice.get(f"{world.url}/status/session", headers=OWN)).json() == {
        "login": "company",
        "name": "company/alice",
    }
    assert await status(world, alice) == 200
    asked = {"model": "other", "messages": [{"role": "user", "content": "hi"}], "stream": False}
    assert (await alice.post(f"{world.url}/api/chat", json=asked, headers=OWN)).status_code == 200
    done = await alice.post(f"{world.url}/status/logout", headers=OWN)
    assert done.json() == {"done": "logged out"}
    assert await status(world, alice) == 401
    assert (await alice.get(f"{world.url}/status/session", headers=OWN)).json()["name"] == ""


async def test_a_login_counts_only_where_the_page_itself_asks(world, alice):
    own = f"{world.url}/status/act"
    act = {"act": "purge", "what": ""}
    elsewhere = [
        {},  # a form, a picture, a link
        {**OWN, "Origin": "http://localhost:3000"},  # another program's page on this machine may ask with a key
        {**OWN, "Origin": "https://evil.example.com"},
        {**OWN, "Sec-Fetch-Site": "same-site"},
        {**OWN, "Sec-Fetch-Site": "cross-site"},
        {**OWN, "Origin": "null"},
    ]
    for headers in elsewhere:
        assert (await alice.get(f"{world.url}/status.json", headers=headers)).status_code in (401, 403)
        for path in (own, f"{world.url}/status/logout"):
            assert (await alice.post(path, json=act, headers=headers)).status_code in (401, 403)
    by_page = {**OWN, "Origin": world.url, "Sec-Fetch-Site": "same-origin"}
    assert not world.paths.audit.exists()
    assert (await alice.post(own, json=act, headers=by_page)).status_code == 200
    assert "company/alice" in world.paths.audit.read_text()


async def test_a_cookie_that_was_altered_or_sealed_by_another_secret_is_none(world, alice):
    name, value = next((each.name, each.value) for each in alice.cookies.jar if each.name == "olm_session")
    assert value is not None
    sealed = base64.urlsafe_b64decode(value + "==")
    right = Seal([sessions_key(world.paths, world.settings)])
    plain = right.open(sealed, name)
    assert plain is not None
    assert b"gpu-admins" in plain
    assert b"staff" not in plain  # no grant looks at it
    forged = {
        "altered": sealed[:-1] + bytes([sealed[-1] ^ 1]),
        "cut": sealed[:20],
        "another secret": Seal([64 * "0"]).close(plain, name),
        "another place": right.close(plain, "olm_login"),
        "not sealed": plain,
        "empty": b"",
    }
    async with world.client() as other:
        for what, each in forged.items():
            cookie = f"{name}={base64.urlsafe_b64encode(each).decode().rstrip('=')}"
            assert await status(world, other, Cookie=cookie) == 401, what
        assert await status(world, other, Cookie=f"{name}=!; {name}={value}") == 200
        ended = right.close(plain.replace(b'"e":', b'"e":0,"f":'), name)
        cookie = f"{name}={base64.urlsafe_b64encode(ended).decode().rstrip('=')}"
        assert await status(world, other, Cookie=cookie) == 401


def session_of_alice(world, last_s, **other):
    claims_of_alice = {"sub": ["alice"], "groups": ["gpu-admins"]}
    shape = shape_of(issuer_of("company", world.settings.issuers["company"]))
    told = {"i": world.provider.url, "n": "company", "g": shape, "c": claims_of_alice, "e": time.time() + last_s}
    sealed = Seal([sessions_key(world.paths, world.settings)]).close(json.dumps(told | other).encode(), "olm_session")
    return {"Cookie": f"olm_session={base64.urlsafe_b64encode(sealed).decode()}"}


async def test_who_watches_is_told_nothing_more_once_what_he_watches_by_has_ended(world):
    began_s = time.time()
    async with (
        asyncio.timeout(60),
        world.client() as client,
        client.stream("GET", f"{world.url}/status/live", headers=OWN | session_of_alice(world, 2)) as reply,
    ):
        lines = [line async for line in reply.aiter_lines() if line]
    assert reply.status_code == 200
    assert lines
    assert time.time() >= began_s + 2


async def test_who_watches_has_to_ask_anew_once_the_settings_have_changed(world):
    async with (
        asyncio.timeout(60),
        world.client() as client,
        client.stream("GET", f"{world.url}/status/live", headers=OWN | session_of_alice(world, 3600)) as reply,
    ):
        lines = reply.aiter_lines()
        assert await anext(lines)
        world.read_again()
        async for _ in lines:
            pass


async def test_a_session_does_not_outlive_the_grants_that_it_was_looked_at_by(world):
    for shape, expected in (({}, 200), ({"g": "another"}, 401)):
        cookie = session_of_alice(world, 3600, **shape)
        assert (await get(world.url, "/status.json", headers=OWN | cookie)).status == expected


async def test_who_is_no_admin_is_told_so_and_gets_no_session(world):
    async with world.client() as client:
        reply = await log_in(world, client, "bob")
        assert reply.status_code == 403
        assert "the login of company/bob may not do this: it needs the scope admin" in reply.text
        assert "olm_session" not in client.cookies


async def test_a_state_is_good_once_and_for_who_began(world):
    async with world.client() as client, world.client() as other:
        begun = await client.get(f"{world.url}/status/login")
        before = {each.name: each.value for each in client.cookies.jar}
        assert begun.headers["location"].startswith(f"{world.provider.url}/auth?")
        assert "code_challenge_method=S256" in begun.headers["location"]
        reply = await log_in(world, client, "alice")
        url = reply.request.url
        assert reply.status_code == 302
        again = await client.get(url)
        assert (again.status_code, "did not begin here" in again.text) == (400, True)
        stranger = await other.get(url)
        assert (stranger.status_code, "did not begin here" in stranger.text) == (400, True)
        of_before = await other.get(url, headers={"Cookie": f"olm_login={before['olm_login']}"})
        assert of_before.status_code == 400  # another login's state


async def test_a_code_is_good_once_even_where_its_state_is_kept(world):
    async with world.client() as client, world.client() as other:
        kept: list[str] = []

        async def keep(request: httpx.Request) -> None:
            if request.url.path == "/status/login/back":
                kept.append(request.headers["cookie"])

        client.event_hooks["request"].append(keep)
        reply = await log_in(world, client, "alice")
        again = await other.get(reply.request.url, headers={"Cookie": kept[0]})
        assert (again.status_code, "gave no ID token for this login" in again.text) == (401, True)


async def test_what_an_issuer_refuses_is_told_and_its_words_lead_nowhere(world):
    async with world.client() as client:
        begun = await client.get(f"{world.url}/status/login?next=https://evil.example.com")
        state = httpx.URL(begun.headers["location"]).params["state"]
        denied = await client.get(f"{world.back}?state={state}&error=access_denied&error_uri=https://evil.example.com")
        assert (denied.status_code, "company did not log you in (access_denied)" in denied.text) == (401, True)
        assert denied.headers["content-type"].startswith("text/plain")
        assert "evil" not in denied.text
        begun = await client.get(f"{world.url}/status/login")
        state = httpx.URL(begun.headers["location"]).params["state"]
        mixed = await client.get(f"{world.back}?state={state}&code=x&iss=https://evil.example.com")
        assert (mixed.status_code, "another issuer" in mixed.text) == (400, True)
        for nonsense in (17 * "a=1&", "state=%FF"):
            assert (await client.get(f"{world.back}?{nonsense}")).status_code == 400


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def chromium() -> str:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium: `apt-get install chromium`")
    return program


async def _fill(page: Page, who: str) -> None:
    """The issuer's own pages: who it is, and that the page may know."""
    await page.locator("input[name=login]").fill(who)
    await page.locator("input[name=password]").fill("any")
    await page.locator("button[type=submit]").click()
    await page.locator("button[type=submit]", has_text="Continue").click()


async def test_somebody_logs_in_to_the_page_in_a_browser_and_out_again(world, chromium):
    expect.set_options(timeout=30_000)
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            page = await browser.new_page()
            said: list[str] = []
            page.on("pageerror", lambda why: said.append(str(why)))
            await page.route(
                lambda url: not url.startswith((world.url, world.provider.url)), lambda route: route.abort()
            )
            await page.goto(f"{world.url}/status")
            await page.get_by_role("link", name="Log in with company").click()
            await _fill(page, "alice")
            await expect(page.get_by_text("company/alice", exact=True)).to_be_visible()
            await expect(page.get_by_role("heading", name="Queues")).to_be_visible()
            assert page.url == f"{world.url}/status"
            assert await page.evaluate("document.cookie") == ""
            await page.get_by_label("Question").fill("hi")
            await page.get_by_label("Route or model").select_option("m")
            await page.get_by_role("button", name="Ask").click()
            await expect(page.locator("#answer")).not_to_be_empty()
            await page.get_by_role("button", name="Log out").click()
            await expect(page.get_by_role("link", name="Log in with company")).to_be_visible()
            assert not said
        finally:
            await browser.close()
