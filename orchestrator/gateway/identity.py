"""Who is asking, and what for: API keys, known by their digests alone.

Which keys there are is the settings' affair, tokens that of `tokens`. What a path needs is said where it is served.
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.errors import CallerError
from orchestrator.core.patterns import is_like
from orchestrator.core.privacy import Privacy
from orchestrator.core.target import Budget

ANONYMOUS = "anonymous"
# What a key may be good for: to ask; to see and change the cluster; to change which models there are.
INFER, ADMIN, MODELS = "infer", "admin", "models"
NEVER: Final = math.inf
# Whoever has a key that ends within this time should have its successor by now.
SOON_S: Final = 14 * 86_400.0
_KEY_NEEDED: Final = "an API key is needed: Authorization: Bearer <key>"
AUTHENTICATION: Final = "authentication_error"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, by an API key, a token or a login, and what it may do."""

    name: str
    scopes: frozenset[str] = frozenset({INFER})
    privacy: Privacy | None = None  # class of its calls, if they are of no stricter one
    budget: Budget | None = None  # what it may use; None: as much as it likes
    models: tuple[str, ...] | None = None  # globs of models and routes it may ask for; None: every one
    priority: int = 0  # the best class in a queue that it may claim, and has if it claims none
    tenant: str = ""  # who is told of what it used, beside others of that name
    by: str = "key"  # what it asks by: a key, a token or a login
    until_s: float = NEVER  # what lasts ends then (Unix seconds)

    def may(self, scope: str) -> bool:
        return scope in self.scopes

    def may_use(self, model: str) -> bool:
        """Whether it may ask for a model or route, whatever the spelling."""
        return self.models is None or _is_among(model, self.models)


class ModelNotAllowedError(CallerError):
    """What a caller asked for is not among its models. It is told what it would be told if there were no such model:
    which there are is not for everybody to find out."""


# Whoever reaches an endpoint without keys. Which models there are is nothing that just anybody changes.
ANYBODY = Caller(ANONYMOUS, frozenset({INFER, ADMIN}))


@dataclass(frozen=True, slots=True)
class Key:
    """A secret's digest (SHA-256), whose it is, and until when it opens anything (Unix seconds)."""

    digest: bytes
    caller: Caller
    until_s: float = NEVER
    is_replaced: bool = False  # by a newer secret of the same caller


class Keys:
    """Everybody who may ask. With no keys and `is_open`, that is whoever reaches the endpoint."""

    def __init__(self, keys: Iterable[Key], *, is_open: bool = True) -> None:
        # Looked up by digest: how long that takes tells of a digest, which nobody can choose, and nothing of a secret;
        # and 500 keys cost what one does.
        self._keys = {each.digest: each for each in keys}
        self._is_open = is_open and not self._keys

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    @property
    def is_open(self) -> bool:
        return self._is_open

    def caller(self, authorization: str, api_key: str = "") -> Caller:
        """The holder of a Bearer token, or of Anthropic's and others' `X-Api-Key`. Raises CallerError 401."""
        if self._is_open:
            return ANYBODY
        secret = secret_in(authorization, api_key)
        caller = self.known(digest_of(secret)) if secret else None
        if caller is None:
            raise CallerError(401, _KEY_NEEDED, AUTHENTICATION)
        return caller

    def known(self, digest: bytes) -> Caller | None:
        """Whose key has this digest. Raises CallerError 401 where it has ended."""
        key = self._keys.get(digest)
        if key is None:
            return None
        if key.until_s is not NEVER and key.until_s <= time.time():
            raise _ended(key)
        return key.caller

    def with_scope(self, authorization: str, api_key: str, scope: str) -> Caller:
        """As `caller`, and its key must have this scope. Raises CallerError 401, 403."""
        return with_scope(self.caller(authorization, api_key), scope)


def with_scope(caller: Caller, scope: str) -> Caller:
    """The caller, who must have this scope. Raises CallerError 403."""
    if scope not in caller.scopes:
        raise _lacking(caller, scope)
    return caller


def secret_in(authorization: str, api_key: str) -> str:
    """The Bearer token, or what stands in Anthropic's and others' `X-Api-Key`; '' where there is neither."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else api_key


def digest_of(secret: str) -> bytes:
    """What a secret is known by. Secrets are random and long, so that no slower function is needed to hide them."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def not_for_this_key(unknown: CallerError) -> ModelNotAllowedError:
    """`unknown`, for a model that is not the caller's: records and metrics tell the operator what is behind it."""
    told = ModelNotAllowedError(unknown.status, unknown.message, unknown.kind)
    told.there = unknown.there
    return told


@functools.lru_cache(maxsize=4096)
def _is_among(model: str, globs: tuple[str, ...]) -> bool:
    name = canonical_model_name(model)
    return any(is_like(name, canonical_model_name(each)) for each in globs)


def _ended(key: Key) -> CallerError:
    """Told to who has the secret: that it was right once is no news to them."""
    at = datetime.fromtimestamp(key.until_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    what = "was replaced by a newer one and ended" if key.is_replaced else "ended"
    return CallerError(401, f"this API key of {key.caller.name} {what} on {at}", AUTHENTICATION)


def _lacking(caller: Caller, scope: str) -> CallerError:
    if caller is ANYBODY:
        why = f"this needs an API key with the scope {scope}, and no keys are configured"
    else:
        has = ", ".join(sorted(caller.scopes))
        why = f"the {caller.by} of {caller.name} may not do this: it needs the scope {scope}, and has {has}"
    return CallerError(403, why, "permission_error")
