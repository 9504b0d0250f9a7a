"""What is written on a host for its instances, as text: unit names, the units' template, environments, the firewall.

Pure. `python -m orchestrator.nodes.systemd_text` prints the template with its defaults: `deploy/ollama@.service`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from ipaddress import ip_network
from typing import Final

from orchestrator.nodes.onhost.environments import environment_text as environment_text
from orchestrator.nodes.onhost.units import INSTANCES

USER: Final = "ollama"
MODELS_DIR: Final = "/usr/share/ollama/.ollama/models"
RESTART_S: Final = 2
STOP_S: Final = 20
# The name of an instance's unit at a keeper (`fleet/made.py`); on a host the template's name stands for it.
PREFIX: Final = "engine-"

_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.@")
_LONGEST: Final = 255 - len("ollama@.service")


def instance_of(name: str) -> str:
    """The instance of the template for a unit's name. Raises ValueError for what is no instance's unit.

    What an instance's name holds by itself stays as it is: `ollama@gpu-1-gpu0-llama3.2-3b-0.service` can be typed. The
    rest is escaped with colons: `\\x2b` as systemd-escape has it would be a pattern to `EnvironmentFile=`.
    """
    if not name.startswith(PREFIX) or name == PREFIX:
        raise ValueError(f"{name!r} is no unit of an instance: those begin with {PREFIX!r}")
    instance = "".join(chr(each) if chr(each) in _PLAIN else f":{each:02x}" for each in name[len(PREFIX) :].encode())
    if len(instance) > _LONGEST:
        raise ValueError(f"{name!r} is too long for a unit of systemd, which has {_LONGEST} characters for it")
    return instance


def name_of(instance: str) -> str:
    """The unit's name for an instance of the template."""
    raw = re.sub(rb":([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), instance.encode())
    return PREFIX + raw.decode(errors="replace")


def render_template(user: str = USER, models_dir: str = MODELS_DIR) -> str:
    """The template of all instances of a host: whom they run as, and the one folder of models that they may write.

    Raises ValueError for a folder that systemd cannot be told of.
    """
    text = (files("orchestrator") / "data" / "ollama@.service").read_text(encoding="utf-8")
    values = {
        "user": user,
        "models_dir": _path(models_dir),
        "instances": str(INSTANCES),
        "stop_s": str(STOP_S),
        "restart_s": str(RESTART_S),
    }
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], text)


def _path(path: str) -> str:
    """One path of BindPaths, in which a quote, a colon and a percent sign mean nothing. Raises ValueError."""
    if re.fullmatch(r"[\w./-]+", path):
        return path
    if "\\" in path:
        raise ValueError(f"{path}: systemd takes no folder with a backslash in its name")
    escaped = path.replace('"', r"\"").replace(":", r"\:").replace("%", "%%")
    return f'"{escaped}"'


def render_firewall(gateways: Iterable[str], ports: tuple[int, int]) -> str:
    """A script for `nft -f -` that replaces our table as a whole: on these ports `gateways` come in, nobody else.

    Other tables are left alone, and what they refuse stays refused.
    """
    networks = [ip_network(each, strict=False) for each in gateways]
    lines = []
    for version, family, kind in ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr")):
        of_kind = sorted({str(each) for each in networks if each.version == version})
        if of_kind:
            lines.append((f"gateways{version}", family, kind, ", ".join(of_kind)))
    sets = "".join(
        f"\tset {name} {{\n\t\ttype {kind}\n\t\tflags interval\n\t\tauto-merge\n\t\telements = {{ {elements} }}\n\t}}\n"
        for name, _, kind, elements in lines
    )
    to_us = f"tcp dport {ports[0]}-{ports[1]}"
    rules = "".join(f"\t\t{to_us} {family} saddr @{name} accept\n" for name, family, _, _ in lines)
    return (
        "table inet ollamactl\ndelete table inet ollamactl\ntable inet ollamactl {\n"
        f"{sets}\tchain instances {{\n\t\ttype filter hook input priority filter; policy accept;\n"
        f'\t\tiif "lo" accept\n{rules}\t\t{to_us} drop\n\t}}\n}}\n'
    )


if __name__ == "__main__":
    print(render_template(), end="")
