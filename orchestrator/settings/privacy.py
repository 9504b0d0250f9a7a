"""Settings of what may leave the cluster, and of what logs may say. How texts are judged is `core.privacy`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from orchestrator.settings.section import Section

Class = Literal["public", "internal", "local"]
KindName = Literal["e-mail", "phone", "iban", "identity number", "card number", "secret", "health", "word"]


class PrivacySettings(Section):
    """Which calls may be answered outside the cluster. Of several classes that apply the strictest wins."""

    default: Class = Field(
        default="public",
        description="Class of calls that nothing else makes stricter: `public` may go to every provider, `internal` to "
        "those that accept it, `local` to none.",
    )
    detect: bool = Field(
        default=True, description="Whether calls that might go outside are searched for what `classes` names."
    )
    classes: dict[KindName, Class] = Field(
        default={},
        description="Class of calls in which that is found; by default `internal` for `e-mail` and `phone`, `local` "
        "for the others.",
        examples=[{"e-mail": "local", "health": "internal"}],
    )
    attachments: Class = Field(
        default="local",
        description="Class of calls with what cannot be searched: images, sound, files, tokens in place of texts.",
    )
    search_letters: int = Field(
        default=262_144,
        ge=1024,
        le=2**22,
        description="Calls with longer texts are `local` without a search, which takes a tenth of a second at this "
        "length, and a second where a text is made to be slow.",
    )
    words: tuple[Path, ...] = Field(
        default=(),
        description="Files of words that make a call private (kind `word`), one word or phrase a line; `*` at its end: "
        "any ending.",
        examples=[["private-words.txt"]],
    )


class LogSettings(Section):
    """What logs of gateways and controller say. Records of calls are `request_log`'s, and never have texts."""

    texts: Literal["off", "redacted"] = Field(
        default="off",
        description="What an instance or provider said with an error, which may quote the call. `off`: as far as it is "
        "known to be the engine's own words; `redacted`: all of it, and in place of private matter its kind.",
    )
