"""What a token's claims make of who shows it: a caller such as an API key has.

Pure. Whether a token is true is left to `tokens`; nothing is granted that the settings do not say.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from orchestrator.core.errors import CallerError
from orchestrator.gateway.identity import Caller

Claims = Mapping[str, Any]

# Claims that are lists of words, as OAuth has them.
_WORDS: Final = frozenset({"scope", "scp"})
# Of a value that is to be a name: what such a name may have, and how long it may be.
_FOREIGN: Final = re.compile(r"[^\w.@-]")
_LONGEST: Final = 64
_BEGINNING: Final = 40


@dataclass(frozen=True, slots=True)
class Grant:
    """What callers get whose claims are such."""

    name: str
    when: tuple[tuple[str, tuple[str, ...]], ...]  # each claim has one of its values
    terms: Caller  # without a name


@dataclass(frozen=True, slots=True)
class Login:
    """What the page is to an issuer."""

    client_id: str
    url: str  # where people have the page, without a slash at its end
    scopes: tuple[str, ...]
    session_s: float
    client_secret: str = field(default="", repr=False)

    @property
    def back(self) -> str:
        """Where the issuer sends people back to."""
        return f"{self.url}/status/login/back"


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are taken, and what they are good for."""

    name: str
    url: str
    audience: tuple[str, ...]
    algorithms: tuple[str, ...]
    grants: tuple[Grant, ...]
    leeway_s: float = 30.0
    jwks_file: Path | None = None
    ca: Path | None = None
    name_claim: str = "sub"
    tenant_claim: str | None = None
    login: Login | None = None


def caller_from(issuer: Issuer, claims: Claims, by: str, until_s: float) -> Caller:
    """Who has these claims, asking `by` a token or a login, until then (Unix seconds).

    Raises CallerError: 401 where they name nobody, 403 where no grant is for them.
    """
    name = _name(issuer, claims)
    grant = next((each for each in issuer.grants if _fits(each, claims)), None)
    if grant is None:
        raise CallerError(
            403, f"the {by} of {name} is good for nothing here: no grant of {issuer.name} fits it", "permission_error"
        )
    tenant = grant.terms.tenant
    if not tenant and issuer.tenant_claim is not None:
        tenant = next((_as_name(each) for each in values_at(claims, issuer.tenant_claim) if each), "")
    return replace(grant.terms, name=name, tenant=tenant, by=by, until_s=until_s)


def values_at(claims: Claims, path: str) -> tuple[str, ...]:
    """What a claim has: of a list each, of `scope` each word. A dot leads into a claim, unless it is in its name."""
    found: Any = claims
    for step in (path,) if path in claims else path.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    if path in _WORDS and isinstance(found, str):
        return tuple(found.split())
    return tuple(_texts(found if isinstance(found, list) else [found]))


def looked_at(issuer: Issuer, claims: Claims) -> dict[str, Any]:
    """Of the claims what `caller_from` looks at, and no more: what a login remembers."""
    names = [issuer.name_claim, *([issuer.tenant_claim] if issuer.tenant_claim else [])]
    kept: dict[str, Any] = {name: list(values_at(claims, name)[:1]) for name in names}
    for path, wanted in (each for grant in issuer.grants for each in grant.when):
        has = set(values_at(claims, path)) & {*wanted, *kept.get(path, ())}
        kept[path] = [*kept.get(path, ()), *sorted(has - set(kept.get(path, ())))]
    if "email_verified" in claims:
        kept["email_verified"] = claims["email_verified"]
    return kept


def shape_of(issuer: Issuer) -> str:
    """What `looked_at` has looked for: claims that a later grant asks for are not in a login of before."""
    asked = repr([(each.name, each.when) for each in issuer.grants])
    return hashlib.sha256(asked.encode("utf-8", "replace")).hexdigest()[:16]


def _name(issuer: Issuer, claims: Claims) -> str:
    """A caller's name. No key's has a slash, so nobody gets the name of a key, or of another issuer's caller."""
    value = next((each for each in values_at(claims, issuer.name_claim) if each), "")
    if not value:
        raise CallerError(
            401, f"the token has no {issuer.name_claim!r}, which names its caller", "authentication_error"
        )
    if issuer.name_claim == "email" and not _is_verified(claims):
        raise CallerError(401, "the token's address of mail is not verified by its issuer", "authentication_error")
    return f"{issuer.name}/{_as_name(value)}"


def _as_name(value: str) -> str:
    """A value in the letters that names have: two values are never one name."""
    name = _FOREIGN.sub(lambda each: "".join(f"%{byte:02X}" for byte in each[0].encode("utf-8", "replace")), value)
    if len(name) <= _LONGEST:
        return name
    return f"{name[:_BEGINNING]}~{hashlib.sha256(value.encode('utf-8', 'replace')).hexdigest()[:20]}"


def _fits(grant: Grant, claims: Claims) -> bool:
    return all(
        not {*values_at(claims, claim)}.isdisjoint(values) and (claim != "email" or _is_verified(claims))
        for claim, values in grant.when
    )


def _is_verified(claims: Claims) -> bool:
    """Whoever may write any address into his account would have somebody else's name, and rights."""
    return claims.get("email_verified", True) in (True, "true")


def _texts(values: list[Any]) -> Iterator[str]:
    for each in values:
        if isinstance(each, bool):
            yield str(each).lower()
        elif isinstance(each, str | int):
            yield str(each)
