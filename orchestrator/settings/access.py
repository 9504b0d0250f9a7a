"""Settings of who may ask: API keys, in `cluster.yaml` and in the file that `ollamactl keys` keeps."""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr

from orchestrator.settings.moments import check_moment
from orchestrator.settings.routing import BudgetSettings
from orchestrator.settings.section import DIGEST, KEY_NAME, Section

# The name of the cluster's own key, by which its commands ask it.
OWN_NAME: Final = "ollamactl"
Scope = Literal["infer", "admin", "models"]
Moment = Annotated[str, AfterValidator(check_moment)]


class OldSecretSettings(Section):
    """What a key's secret was before, for as long as callers still send it."""

    digest: str = Field(pattern=DIGEST, description="As `digest` of the key.", examples=["sha256:" + 8 * "c0ffee12"])
    until: Moment = Field(description="From then on it opens nothing.", examples=["2027-01-01T12:00:00Z"])


class KeySettings(Section):
    """One caller's API key. `ollamactl keys` keeps such keys in a file of their own, without their secrets."""

    name: str = Field(
        pattern=KEY_NAME, description="Who it is, in logs, metrics and queue order.", examples=["support-team"]
    )
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
    expires: Moment | None = Field(
        default=None,
        description="From then on it opens nothing; a day alone: from its beginning, UTC. None: it has no end.",
        examples=["2027-01-01"],
    )
    tenant: Annotated[str, Field(pattern=KEY_NAME)] | None = Field(
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
        description="What this key may use; beyond it calls are answered 429 with Retry-After.",
    )

    @property
    def granted(self) -> tuple[Scope, ...]:
        """Its scopes, in whichever words they are written."""
        if self.scopes is not None:
            return self.scopes
        return ("infer", "admin") if self.admin else ("infer",)

    @property
    def known_by(self) -> str:
        """The digest of its secret; '' where it has none yet."""
        if self.digest is not None or self.secret is None:
            return self.digest or ""
        return digest_text(self.secret.get_secret_value())


class KeptKey(KeySettings):
    """A key as `ollamactl keys` keeps it."""

    prefix: str = Field(default="", max_length=16, description="Its secret's first characters, to know it by.")
    created: Moment | None = Field(default=None, description="When it was made.")
    rotated: Moment | None = Field(default=None, description="When it was given its present secret.")


def digest_text(secret: str) -> str:
    """A secret's digest as settings write it."""
    return f"sha256:{hashlib.sha256(secret.encode('utf-8', 'surrogateescape')).hexdigest()}"
