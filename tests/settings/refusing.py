"""What settings refuse, as lines; and a file that is good."""

from __future__ import annotations

import pytest

from orchestrator.core.errors import SettingsError
from orchestrator.settings import parse

GOOD = """\
models:
  small-model:
  big-model: {slots: 1}
  words: {embedding: true}
tiers:
  small: {model: small-model, backup: full}
  full: {model: big-model, backup: small}
routes:
  auto:
"""


def refusal(text: str) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        parse(text, "cluster.yaml")
    return str(raised.value).splitlines()


def only_refusal(text: str) -> str:
    (line,) = refusal(text)
    return line
