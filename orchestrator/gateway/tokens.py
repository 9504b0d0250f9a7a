"""Tokens of issuers (JWT): whether one is true, and whose it is. Looked at once, and known by its digest until it ends.

A token is believed by its signature alone, by a key that its issuer publishes. Nothing that stands in it leads
anywhere: no address in its head is followed, and the name of its key is looked for among known ones.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from orchestrator import telemetry
from orchestrator.core.errors import CallerError
from orchestrator.gateway.grants import Claims, Issuer, caller_from
from orchestrator.gateway.identity import AUTHENTICATION, Caller
from orchestrator.gateway.issuer_keys import Issuers

# Longer ones are none: those of people in hundreds of groups have some 7 KiB.
MAX_BYTES: Final = 16_384
KNOWN_AT_MOST: Final = 10_000
# What a token may say that it is: not one of a logout, of a proof or of an event.
ACCESS_TYPES: Final = frozenset({"", "jwt", "at+jwt", "application/at+jwt"})
ID_TYPES: Final = frozenset({"", "jwt"})
_MAX_ID: Final = 256


class TokenRefusedError(CallerError):
    """A token opens nothing. Its text tells what is wrong with it, and nothing that stands in it. `why`: in a word."""

    def __init__(self, why: str, message: str) -> None:
        super().__init__(401, f"the token {message}", AUTHENTICATION)
        self.why = why


class Tokens:
    """Those that were looked at. `issuers`: by their addresses, at this moment."""

    def __init__(self, issuers: Callable[[], Mapping[str, Issuer]], clock: Callable[[], float] = time.time) -> None:
        self._issuers, self._clock = issuers, clock
        self.keys = Issuers(issuers, self.forget)
        self._known: OrderedDict[bytes, Caller] = OrderedDict()
        self._by = issuers()  # what the known ones were looked at by

    def forget(self) -> None:
        """Look at every token again: keys or settings are others."""
        self._known.clear()

    def known(self, digest: bytes) -> Caller | None:
        """Whose token this is, if it was looked at and has not ended."""
        caller = self._known.get(digest)
        if caller is None:
            return None
        if self._issuers() is not self._by or caller.until_s <= self._clock():
            return None
        self._known.move_to_end(digest)
        return caller

    async def caller(self, token: str, digest: bytes) -> Caller:
        """Whose it is. Raises CallerError: 401 for what is wrong with it, 403 where nothing is granted for it;
        CapacityError where its issuer's keys are not known yet."""
        by = self._issuers()
        issuer: Issuer | None = None
        try:
            issuer = self._issuer_of(token)
            claims = await self.claims(issuer, token, issuer.audience, ACCESS_TYPES)
            caller = caller_from(issuer, claims, "token", end_of(claims, issuer))
        except CallerError as why:
            outcome = why.why if isinstance(why, TokenRefusedError) else "grant"
            telemetry.TALLY.count(telemetry.TOKENS_SHOWN, (issuer.name if issuer else "none", outcome))
            raise CallerError(why.status, why.message, why.kind) from why  # counted as any caller's mistake
        telemetry.TALLY.count(telemetry.TOKENS_SHOWN, (issuer.name, "taken"))
        if by is not self._by:
            self.forget()
            self._by = by
        self._known[digest] = caller
        if len(self._known) > KNOWN_AT_MOST:
            self._known.popitem(last=False)
        return caller

    async def claims(self, issuer: Issuer, token: str, audience: Sequence[str], types: frozenset[str]) -> Claims:
        """What a token of this issuer says. Raises TokenRefusedError, CapacityError."""
        import jwt  # only who has issuers needs it

        algorithm, key_id = _head_of(token, issuer, types)
        key = await self.keys.of(issuer).find(key_id, algorithm)
        if key is None:
            raise TokenRefusedError("key", f"is signed by a key that {issuer.name} does not publish")
        if not audience:
            raise TokenRefusedError("audience", f"is of no use here: {issuer.name} is for logins to the page alone")
        try:
            claims: Claims = jwt.decode(
                token,
                key.public,
                algorithms=[algorithm],
                audience=list(audience),
                issuer=issuer.url,
                leeway=issuer.leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
            end_of(claims, issuer)
        except (jwt.PyJWTError, TypeError, ValueError, OverflowError, RecursionError) as why:
            raise _refusal(why, token, audience) from why
        if "cnf" in claims:
            raise TokenRefusedError(
                "bound", "is bound to a key of its holder's (DPoP, mTLS), which is not asked for here"
            )
        return claims

    def _issuer_of(self, token: str) -> Issuer:
        """By what it says itself, which its signature has to bear out."""
        if len(token) > MAX_BYTES:
            raise TokenRefusedError("malformed", f"is longer than {MAX_BYTES >> 10} KiB")
        issuer = self._issuers().get(str(_part(token, 1).get("iss")))
        if issuer is None:
            raise TokenRefusedError("issuer", "is of an issuer that the settings do not name")
        return issuer


def looks_like_one(secret: str) -> bool:
    """Whether a secret that is no key's is to be a token."""
    return secret.startswith("ey") and secret.count(".") == 2


def end_of(claims: Claims, issuer: Issuer) -> float:
    """Until when it is taken (Unix seconds)."""
    return float(claims["exp"]) + issuer.leeway_s


def _head_of(token: str, issuer: Issuer, types: frozenset[str]) -> tuple[str, str | None]:
    """How it is signed, and by which key. Raises TokenRefusedError."""
    head = _part(token, 0)
    algorithm, key_id = head.get("alg"), head.get("kid")
    if algorithm not in issuer.algorithms:
        raise TokenRefusedError("algorithm", f"is signed in a way that {issuer.name} is not said to use")
    if key_id is not None and (not isinstance(key_id, str) or len(key_id) > _MAX_ID):
        raise TokenRefusedError("malformed", "names its key by something that is no name")
    if "crit" in head:
        raise TokenRefusedError("malformed", "asks for extensions that are not known here")
    if str(head.get("typ", "")).lower() not in types:
        raise TokenRefusedError("type", "is one for another purpose")
    return algorithm, key_id


def _part(token: str, number: int) -> dict[str, Any]:
    """One of its parts, unchecked. Raises TokenRefusedError."""
    try:
        part = token.split(".")[number].encode("ascii")
        told = orjson.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except (IndexError, UnicodeEncodeError, binascii.Error, orjson.JSONDecodeError) as why:
        raise TokenRefusedError(
            "malformed", "is none: three parts of base64 are wanted, the first two of them JSON"
        ) from why
    if not isinstance(told, dict):
        raise TokenRefusedError("malformed", "is none: its parts are no objects")
    return told


def _refusal(why: Exception, token: str, audience: Sequence[str]) -> TokenRefusedError:
    """What is told of it. Its signature was right where its claims are what is wrong."""
    import jwt

    match why:
        case jwt.ExpiredSignatureError():
            return TokenRefusedError("expired", f"ended{_when(token, 'exp')}; ask its issuer for another one")
        case jwt.ImmatureSignatureError():
            return TokenRefusedError("early", "is not valid yet: it begins later, or its issuer's clock is ahead")
        case jwt.InvalidAudienceError():
            return TokenRefusedError(
                "audience", f"is made for somebody else: here it must be for {' or '.join(audience)}"
            )
        case jwt.InvalidIssuerError():
            return TokenRefusedError("issuer", "is of an issuer that the settings do not name")
        case jwt.MissingRequiredClaimError():
            return TokenRefusedError("claims", f"has no `{why.claim}`, which is needed")
        case jwt.InvalidSignatureError():
            return TokenRefusedError("signature", "has a wrong signature")
        case jwt.InvalidTokenError():
            return TokenRefusedError("claims", "has a claim that is not as it should be")
        case _:
            return TokenRefusedError("malformed", "cannot be read")


def _when(token: str, claim: str) -> str:
    try:
        at = datetime.fromtimestamp(float(_part(token, 1)[claim]), UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return ""
    return f" on {at:%Y-%m-%d %H:%M UTC}"
