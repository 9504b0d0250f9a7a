"""Logging in to the page: the authorization code flow of OpenID Connect (PKCE, state, nonce), and the session after it.

A session is a sealed cookie, so every worker of every machine with the same secret takes it, and nothing is kept. It
holds the claims that grants look at, and what they are worth is asked of the settings each time. It counts only where
the page itself asks: a form, a link or another site's page cannot send what it has to.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlencode

import orjson

from orchestrator.core.errors import CallerError, CapacityError
from orchestrator.gateway.grants import Issuer, Login, caller_from, looked_at, shape_of
from orchestrator.gateway.identity import ADMIN, AUTHENTICATION, INFER, Caller, with_scope
from orchestrator.gateway.issuer_keys import KeySet, safe_address
from orchestrator.gateway.replies import Reply, field, whole
from orchestrator.gateway.request import Request
from orchestrator.gateway.signing_keys import FetchError
from orchestrator.gateway.tokens import ID_TYPES, Tokens, end_of
from orchestrator.store.sealing import Seal

log = logging.getLogger(__name__)

PATH, BACK_PATH, SESSION_PATH, OUT_PATH = "/status/login", "/status/login/back", "/status/session", "/status/logout"
# Whoever begins a login may ask for its end again and again, with our word for it to the issuer.
EXCHANGES_AT_ONCE: Final = 4
# For finding a password and typing it.
LOGIN_S: Final = 600
# The page says so with each request: another site's page cannot, unless it is allowed to, and a form never.
OWN_HEADER: Final = b"x-requested-with"
OWN_WORD: Final = "ollamactl"
# What the page does; models are changed by key or token.
_SCOPES: Final = frozenset({INFER, ADMIN})
_LETTERS: Final = 32
_COOKIE_BYTES: Final = 3800  # browsers keep 4096 of it, with its name and terms
_ERROR_CODE: Final = re.compile(r"[a-z_]{1,64}")
_SESSION, _UNDER_WAY = "olm_session", "olm_login"
_TEXT: Final = "text/plain; charset=utf-8"


class Logins:
    """`issuer`: with which people log in at this moment; None: with none.

    `seal` is the same on all machines, and asked for once somebody does.
    """

    def __init__(
        self,
        issuer: Callable[[], Issuer | None],
        tokens: Tokens,
        seal: Callable[[], Seal],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuer, self._tokens, self._seal, self._clock = issuer, tokens, seal, clock
        self._exchanging = asyncio.Semaphore(EXCHANGES_AT_ONCE)

    def caller(self, request: Request) -> Caller | None:
        """Who is logged in, where the page itself asks. Raises CallerError 403 where its grant is gone."""
        issuer = self._issuer()
        if issuer is None or issuer.login is None or not _asks_from_page(request, issuer.login):
            return None
        for told in self._opened(request, _SESSION, issuer.login):
            if _is_of(told, issuer) and told["e"] > self._clock():
                caller = caller_from(issuer, told["c"], "login", told["e"])
                return replace(caller, scopes=caller.scopes & _SCOPES)
        return None

    def told(self, request: Request) -> dict[str, str]:
        """What the page has to know: whether one can log in, and who is."""
        issuer = self._issuer()
        try:
            caller = self.caller(request)
        except CallerError:  # whose grant is gone
            caller = None
        return {
            "login": issuer.name if issuer is not None and issuer.login is not None else "",
            "name": caller.name if caller is not None else "",
        }

    async def begin(self, _: Request) -> Reply:
        """Send somebody to the issuer. Raises CallerError 404, CapacityError."""
        issuer, login = self._login()
        addresses = await self._tokens.keys.of(issuer).addresses()
        try:
            begins = safe_address(addresses, "authorization_endpoint", issuer)
        except FetchError as why:
            raise _not_now(issuer, why) from why
        state, nonce, verifier = (secrets.token_urlsafe(_LETTERS) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        asked = {
            "response_type": "code",
            "client_id": login.client_id,
            "redirect_uri": login.back,
            "scope": " ".join(login.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        told = {"s": state, "n": nonce, "v": verifier, "e": self._clock() + LOGIN_S}
        cookie = self._cookie(_UNDER_WAY, told, login, LOGIN_S, "Lax")  # Lax: the issuer's page leads back
        return _sent_to(f"{begins}{'&' if '?' in begins else '?'}{urlencode(asked)}", cookie)

    async def back(self, request: Request) -> Reply:
        """Somebody comes from the issuer: logged in, or told why not. Raises CallerError 404."""
        issuer, login = self._login()
        try:
            session, last_s = await self._session(request, issuer, login)
        except (CallerError, CapacityError) as why:
            log.warning("a login with %s was refused: %s", issuer.name, type(why).__name__)
            text = f"{why}\n\nTo begin again: {login.url}/status\n"
            return whole(_TEXT, text.encode(), _terms() + self._without(_UNDER_WAY, login), why.status)
        cookies = self._cookie(_SESSION, session, login, last_s, "Strict") + self._without(_UNDER_WAY, login)
        return _sent_to(f"{login.url}/status", cookies)

    def end(self, request: Request) -> Reply:
        """Log out. Raises CallerError 403 where it is not the page that asks."""
        _, login = self._login()
        if not _asks_from_page(request, login):
            raise CallerError(403, "the page at /status alone logs out", "permission_error")
        return whole("application/json", b'{"done":"logged out"}', _terms() + self._without(_SESSION, login))

    # --- coming back ---

    async def _session(self, request: Request, issuer: Issuer, login: Login) -> tuple[dict[str, Any], int]:
        """What a session holds, and for how long it lasts (s). Raises CallerError, CapacityError."""
        query = _query_of(request)
        begun = next(
            (
                each
                for each in self._opened(request, _UNDER_WAY, login)
                if hmac.compare_digest(each["s"].encode(), query.get("state", "").encode())
            ),
            None,
        )
        if begun is None or begun["e"] <= self._clock():
            raise CallerError(400, f"this login did not begin here within the last {LOGIN_S // 60} minutes")
        if query.get("iss", issuer.url) != issuer.url:
            raise CallerError(400, "this is another issuer's answer")
        if "code" not in query:
            code = query.get("error", "")
            why = f" ({code})" if _ERROR_CODE.fullmatch(code) else ""
            raise CallerError(401, f"{issuer.name} did not log you in{why}", AUTHENTICATION)
        token = await self._id_token(issuer, login, query["code"], begun["v"])
        claims = await self._tokens.claims(issuer, token, (login.client_id,), ID_TYPES)
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), begun["n"].encode()):
            raise CallerError(401, "the ID token was made for another login", AUTHENTICATION)
        if claims.get("azp", login.client_id) != login.client_id:
            raise CallerError(401, "the ID token was made for another client", AUTHENTICATION)
        now_s = self._clock()
        end_s = min(end_of(claims, issuer), now_s + login.session_s)
        kept = looked_at(issuer, claims)
        with_scope(caller_from(issuer, kept, "login", end_s), ADMIN)
        told = {"i": issuer.url, "n": issuer.name, "g": shape_of(issuer), "c": kept, "e": end_s}
        return told, max(int(end_s - now_s), 1)

    async def _id_token(self, issuer: Issuer, login: Login, code: str, verifier: str) -> str:
        """What the issuer gives for a code. Raises CallerError 401, CapacityError."""
        keys = self._tokens.keys.of(issuer)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": login.back,
            "client_id": login.client_id,
            "code_verifier": verifier,
        }
        status, body = await self._given(issuer, keys, login, form)
        try:
            token = orjson.loads(body)["id_token"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            token = None
        if status != 200 or not isinstance(token, str):
            raise CallerError(
                401, f"{issuer.name} gave no ID token for this login (it answers {status})", AUTHENTICATION
            )
        return token

    async def _given(self, issuer: Issuer, keys: KeySet, login: Login, form: dict[str, str]) -> tuple[int, bytes]:
        try:
            addresses = await keys.addresses()
            headers, more = _opened_by(login, addresses)
            async with self._exchanging:
                return await keys.post(safe_address(addresses, "token_endpoint", issuer), form | more, headers)
        except FetchError as why:
            raise _not_now(issuer, why) from why

    def _login(self) -> tuple[Issuer, Login]:
        issuer = self._issuer()
        if issuer is None or issuer.login is None:
            raise CallerError(404, "nobody logs in here: no issuer of the settings has a `login`")
        return issuer, issuer.login

    # --- cookies ---

    def _cookie(self, name: str, told: Mapping[str, Any], login: Login, last_s: int, same_site: str) -> str:
        sealed = base64.urlsafe_b64encode(self._seal().close(orjson.dumps(told), name)).decode().rstrip("=")
        if len(sealed) > _COOKIE_BYTES:
            raise CallerError(403, "the claims that grants look at are too long for a cookie", "permission_error")
        return field("Set-Cookie", f"{_named(name, login)}={sealed}; Max-Age={last_s}; {_attributes(login, same_site)}")

    def _without(self, name: str, login: Login) -> str:
        return field("Set-Cookie", f"{_named(name, login)}=; Max-Age=0; {_attributes(login, 'Strict')}")

    def _opened(self, request: Request, name: str, login: Login) -> Iterator[dict[str, Any]]:
        """What was sealed in the cookies of this name; one that was altered, or is another's, is none."""
        wanted = _named(name, login)
        for each in request.header(b"cookie")[: 4 * _COOKIE_BYTES].split(";"):
            found, _, value = each.strip().partition("=")
            if found != wanted:
                continue
            try:
                sealed = base64.b64decode(value + "=" * (-len(value) % 4), b"-_", validate=True)
            except (binascii.Error, ValueError):  # ValueError: not ASCII
                continue
            if (plain := self._seal().open(sealed, name)) is not None:
                yield orjson.loads(plain)


def _query_of(request: Request) -> dict[str, str]:
    """Raises CallerError for more than an issuer ever says."""
    try:
        given = parse_qs(request.query, max_num_fields=16, errors="strict")
    except ValueError as why:
        raise CallerError(400, "this is no issuer's answer") from why
    return {name: values[0] for name, values in given.items()}


def _is_of(told: Mapping[str, Any], issuer: Issuer) -> bool:
    """Whether a session was begun with this issuer, as it is in the settings now."""
    return bool(told.get("i") == issuer.url and told.get("n") == issuer.name and told.get("g") == shape_of(issuer))


def _asks_from_page(request: Request, login: Login) -> bool:
    """Whether the page itself sent this. nginx takes the page's own Origin away; what a browser says besides stays."""
    return (
        request.header(OWN_HEADER) == OWN_WORD
        and request.header(b"origin") in ("", login.url)
        and request.header(b"sec-fetch-site") in ("", "same-origin")
    )


def _opened_by(login: Login, addresses: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """How the page shows who it is to the issuer: in a header, or in the form where that is the way there is."""
    if not login.client_secret:
        return {}, {}
    ways = addresses.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    if isinstance(ways, list) and "client_secret_basic" not in ways and "client_secret_post" in ways:
        return {}, {"client_secret": login.client_secret}
    pair = f"{quote(login.client_id, safe='')}:{quote(login.client_secret, safe='')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}, {}


def _named(name: str, login: Login) -> str:
    """`__Host-`: browsers take such a cookie from this very host over TLS alone."""
    return f"__Host-{name}" if login.url.startswith("https:") else name


def _attributes(login: Login, same_site: str) -> str:
    return f"Path=/; HttpOnly; SameSite={same_site}{'; Secure' if login.url.startswith('https:') else ''}"


def _sent_to(url: str, cookies: str) -> Reply:
    return Reply(302, field("Location", url) + _terms() + cookies)


def _terms() -> str:
    return (
        field("Cache-Control", "no-store")
        + field("Referrer-Policy", "no-referrer")
        + field("X-Content-Type-Options", "nosniff")
    )


def _not_now(issuer: Issuer, why: FetchError) -> CapacityError:
    return CapacityError(f"nobody can log in with {issuer.name} now: {why}", retry_after_s=10)
