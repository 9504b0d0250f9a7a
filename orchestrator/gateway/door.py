"""Who asks: by an API key, by an issuer's token, or by being logged in to the page. In this order."""

from __future__ import annotations

from collections.abc import Awaitable

from orchestrator.core.errors import CallerError
from orchestrator.gateway.identity import AUTHENTICATION, Caller, digest_of, secret_in
from orchestrator.gateway.live import Live
from orchestrator.gateway.login import Logins
from orchestrator.gateway.request import Request
from orchestrator.gateway.tokens import Tokens, looks_like_one


class Door:
    """What is known of tokens and logins, beside the keys of the rules."""

    def __init__(self, live: Live, tokens: Tokens, logins: Logins) -> None:
        self._live, self.tokens, self.logins = live, tokens, logins

    def caller(self, request: Request) -> Caller | Awaitable[Caller]:
        """Who it is; to be waited for where its token has to be looked at first.

        Raises CallerError 401, 403; CapacityError where an issuer's keys are not known yet.
        """
        rules = self._live.rules
        if not rules.issuers:
            return rules.keys.caller(request.header(b"authorization"), request.header(b"x-api-key"))
        secret = secret_in(request.header(b"authorization"), request.header(b"x-api-key"))
        if not secret:
            if (somebody := self.logins.caller(request)) is not None:
                return somebody
        else:
            digest = digest_of(secret)
            known = rules.keys.known(digest) or self.tokens.known(digest)
            if known is not None:
                return known
            if looks_like_one(secret):
                return self.tokens.caller(secret, digest)
        names = " or ".join(rules.issuers[each].name for each in rules.issuers)
        raise CallerError(
            401, f"an API key, or a token of {names}, is needed: Authorization: Bearer <key or token>", AUTHENTICATION
        )
