"""The environment of an instance as the file that systemd reads, and what it may hold on a restricted host."""

from __future__ import annotations

import re
from typing import Mapping

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPECIAL = re.compile(r'["\\`$]')
# A unit's `ExecStartPre=+…` is run by root with the same environment: PATH, LD_PRELOAD and their like would be root's.
_OURS = re.compile(r"(OLLAMA|OLLAMACTL|CUDA|LLAMA_ARG)_[A-Z0-9_]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def environment_text(environment: Mapping[str, str]) -> str:
    """An EnvironmentFile with exactly these variables. Raises ValueError for what systemd would leave out.

    In double quotes systemd takes a backslash before `"`, `\\`, `` ` `` and `$` away, and nothing else has a meaning.
    """
    lines = []
    for name, value in sorted(environment.items()):
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an environment variable")
        if "\0" in value:
            raise ValueError(f"{name}: a value cannot hold a null byte")
        escaped = _SPECIAL.sub(r"\\\g<0>", value)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)


def forbidden(environment: Mapping[str, str]) -> str:
    """The first variable that an instance of a restricted host may not have; empty where there is none."""
    wrong = (name for name, value in environment.items() if not _OURS.fullmatch(name) or _CONTROL.search(value))
    return next(wrong, "")
