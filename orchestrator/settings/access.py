"""Settings of who may ask: API keys, in `cluster.yaml` and in the file that `ollamactl keys` keeps, and tokens."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr

from orchestrator.settings.moments import check_moment
from orchestrator.settings.routing import BudgetSettings
from orchestrator.settings.section import DIGEST, NODE_NAME, KeyName, Section
from orchestrator.settings.syntax import check_issuer_url

# The name of the cluster's own key, by which its commands ask it.
OWN_NAME: Final = "ollamactl"
Scope = Literal["infer", "admin", "models"]
# Asymmetric ones alone: what a token is checked by is published, and nobody may sign with it.
Algorithm = Literal["RS256", "PS256", "ES256", "EdDSA"]
Moment = Annotated[str, AfterValidator(check_moment)]
IssuerUrl = Annotated[str, AfterValidator(check_issuer_url)]
Claim = Annotated[str, Field(min_length=1, max_length=255)]


class OldSecretSettings(Section):
    """What a key's secret was before, for as long as callers still send it."""

    digest: str = Field(pattern=DIGEST, description="As `digest` of the key.", examples=["sha256:" + 8 * "c0ffee12"])
    until: Moment = Field(description="From then on it opens nothing.", examples=["2027-01-01T12:00:00Z"])


class _Known(Section):
    """Whose a key is, and what it is known by."""

    name: KeyName = Field(description="Who it is, in logs, metrics and queue order.", examples=["support-team"])
    secret: SecretStr | None = Field(
        default=None,
        description="The key itself, 16 characters or more; `env:NAME` or `file:PATH` keeps it out of this file. "
        "Either this or `digest`.",
        examples=["env:SUPPORT_KEY"],
    )
    digest: Annotated[str, Field(pattern=DIGEST)] | None = Field(
        default=None,
        description="What the key is known by, where the secret itself is kept elsewhere: `sha256:` and what "
        "`sha256sum` says of it.",
        examples=["sha256:" + 8 * "c0ffee12"],
    )
    old: tuple[OldSecretSettings, ...] = Field(
        default=(),
        description="Secrets of before, by their digests: while callers change to the new one, both are right.",
        examples=[[{"digest": "sha256:" + 8 * "c0ffee12", "until": "2027-01-01"}]],
    )
    expires: Moment | None = Field(
        default=None,
        description="From then on it opens nothing; a day alone: from its beginning, UTC. None: it has no end.",
        examples=["2027-01-01"],
    )


class TermsSettings(Section):
    """What somebody may do who asks."""

    scopes: tuple[Scope, ...] | None = Field(
        default=None,
        description="What it is good for: `infer` asks models, `admin` sees status and metrics and changes the "
        "cluster, `models` pulls, copies and deletes models. By default `infer`.",
        examples=[["infer", "models"]],
    )
    admin: bool = Field(default=False, description="The scopes `infer` and `admin` in one word.")
    models: tuple[Annotated[str, Field(min_length=1, max_length=255)], ...] | None = Field(
        default=None,
        description="Models and routes it may ask for, by names or globs; others are not there for it. None: all.",
        examples=[["llama3*", "auto"]],
    )
    tenant: KeyName | None = Field(
        default=None,
        description="Whose it is, where several keys are one customer's: counted together in metrics, records and "
        "reports.",
        examples=["acme"],
    )
    priority: int = Field(
        default=0,
        ge=0,
        le=9,
        description="Its calls' class in a queue, 0 goes first; `X-Priority` may ask for a later one, not for an "
        "earlier one.",
    )
    privacy: Literal["internal", "local"] | None = Field(
        default=None,
        description="Class of its calls, if nothing makes them stricter; none: as `privacy.default`.",
        examples=["local"],
    )
    limits: BudgetSettings = Field(
        default=BudgetSettings(),
        description="What it may use; beyond it calls are answered 429 with Retry-After.",
    )

    @property
    def granted(self) -> tuple[Scope, ...]:
        """Its scopes, in whichever words they are written."""
        if self.scopes is not None:
            return self.scopes
        return ("infer", "admin") if self.admin else ("infer",)


class KeySettings(TermsSettings, _Known):
    """One caller's API key. `ollamactl keys` keeps such keys in a file of their own, without their secrets."""

    @property
    def known_by(self) -> str:
        """The digest of its secret; '' where it has none yet."""
        if self.digest is not None or self.secret is None:
            return self.digest or ""
        return digest_text(self.secret.get_secret_value())


class _ForWhom(Section):
    """Whose tokens a grant is for."""

    when: dict[Claim, Claim | tuple[Claim, ...]] = Field(
        description="Claims that a token must have, each with one of these values; in a list it is among them, and "
        "`scope` is a list of words. A dot leads into a claim. `{}`: every token of this issuer.",
        examples=[{"groups": "gpu-users", "realm_access.roles": ["ml", "ops"]}],
    )


class GrantSettings(TermsSettings, _ForWhom):
    """What tokens with certain claims may do: all that a key may have. Limits are each caller's own."""


class LoginSettings(Section):
    """People log in to the page at /status with this issuer: the authorization code flow, with PKCE."""

    client_id: str = Field(
        min_length=1, max_length=255, description="What the issuer knows the page as.", examples=["ollama-status"]
    )
    client_secret: SecretStr | None = Field(
        default=None,
        description="What it opens by there, as `env:NAME` or `file:PATH`; none for a public client.",
        examples=["file:page.secret"],
    )
    url: IssuerUrl = Field(
        description="Where people have the page, without /status: https, or this machine's own address. The issuer "
        "must know `URL/status/login/back` as where it may send them.",
        examples=["https://gpu.example.com"],
    )
    scopes: tuple[Claim, ...] = Field(
        default=("openid",),
        description="What is asked of the issuer; `openid` is needed.",
        examples=[["openid", "groups"]],
    )
    session_s: int = Field(
        default=8 * 3600, ge=60, le=86_400, description="The longest that a login lasts; it ends with its ID token."
    )


class IssuerSettings(Section):
    """Somebody who says who people are (OpenID Connect): the tokens it signs (JWT) are taken beside API keys."""

    url: IssuerUrl = Field(
        description="Its name, as tokens have it (`iss`), to the letter; what it publishes is found below it.",
        examples=["https://login.example.com/realms/main"],
    )
    audience: tuple[Claim, ...] = Field(
        default=(),
        description="What a token must be made for (`aud`), one of these. Without any, no calls are taken with tokens, "
        "and `login` alone is of use.",
        examples=[["ollama"]],
    )
    algorithms: tuple[Algorithm, ...] = Field(
        default=("RS256", "PS256", "ES256", "EdDSA"), min_length=1, description="How its tokens may be signed."
    )
    leeway_s: int = Field(default=30, ge=0, le=300, description="How far its clock may be from this one.")
    jwks_file: Path | None = Field(
        default=None,
        description="Its keys (a JWK set), where it cannot be asked for them; read again every ten minutes.",
        examples=["issuer-keys.json"],
    )
    ca: Path | None = Field(
        default=None,
        description="File of the certificates (PEM) that its own is checked by; none: the system's.",
        examples=["company-ca.pem"],
    )
    name_claim: Claim = Field(
        default="sub",
        description="Claim that names a caller, in logs, metrics and queue order: behind this issuer's name and a "
        "slash. It must be one's own for good, as `sub` is.",
        examples=["email"],
    )
    tenant_claim: Claim | None = Field(
        default=None,
        description="Claim that names whose a caller is, as `tenant` of keys does, where its grant does not say it.",
        examples=["org"],
    )
    grants: dict[Annotated[str, Field(pattern=NODE_NAME)], GrantSettings] = Field(
        min_length=1,
        description="What tokens are good for, by name: the first that fits holds, and no other. One that none fits is "
        "good for nothing.",
        examples=[{"staff": {"when": {"groups": "gpu-users"}}}],
    )
    login: LoginSettings | None = Field(
        default=None,
        description="People log in to the page with it; at most one issuer.",
        examples=[{"client_id": "ollama-status", "url": "https://gpu.example.com"}],
    )


class KeptKey(KeySettings):
    """A key as `ollamactl keys` keeps it."""

    prefix: str = Field(default="", max_length=16, description="Its secret's first characters, to know it by.")
    created: Moment | None = Field(default=None, description="When it was made.")
    rotated: Moment | None = Field(default=None, description="When it was given its present secret.")


def digest_text(secret: str) -> str:
    """A secret's digest as settings write it."""
    return f"sha256:{hashlib.sha256(secret.encode('utf-8', 'surrogateescape')).hexdigest()}"
