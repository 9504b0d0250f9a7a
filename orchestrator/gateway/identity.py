"""Who is asking: API keys, known by their digests alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.core.errors import CallerError
from orchestrator.core.privacy import Privacy
from orchestrator.core.target import Budget

ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Caller:
    """One API key's holder. `is_admin`: may see status, metrics and what else is the operator's."""

    name: str
    is_admin: bool
    privacy: Privacy | None = None  # class of its calls, if they are of no stricter one
    budget: Budget | None = None  # what it may use; None: as much as it likes


ANYBODY = Caller(ANONYMOUS, is_admin=True)


class Keys:
    """The keys of the settings. With none, whoever reaches the endpoint may ask and see the status."""

    def __init__(self, keys: Iterable[tuple[str, Caller]]) -> None:
        # Looked up by digest: how long that takes tells nothing of a secret, and 500 keys cost what one does.
        self._callers = {_digest(secret): caller for secret, caller in keys}

    @property
    def is_open(self) -> bool:
        return not self._callers

    def caller(self, authorization: str, api_key: str = "") -> Caller:
        """The holder of a Bearer token, or of Anthropic's and others' `X-Api-Key`. Raises CallerError 401."""
        if not self._callers:
            return ANYBODY
        scheme, _, token = authorization.partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else api_key
        caller = self._callers.get(_digest(token)) if token else None
        if caller is None:
            raise CallerError(401, "an API key is needed: Authorization: Bearer <key>", "authentication_error")
        return caller

    def admin(self, authorization: str, api_key: str = "") -> Caller:
        """As `caller`, and it must be an admin's key. Raises CallerError 401, 403."""
        caller = self.caller(authorization, api_key)
        if not caller.is_admin:
            raise CallerError(403, f"the key of {caller.name} is not an admin's", "permission_error")
        return caller


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
