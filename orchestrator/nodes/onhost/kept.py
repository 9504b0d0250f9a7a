"""What systemd and the kernel keep of a host's base: the unit of instances, and the rule who may reach them.

Texts come from outside. What is loaded is compared, not only what lies in files: somebody may have flushed it since.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from orchestrator.nodes.onhost.work import PATH, STATE, Refused, Told, Work, ran
from orchestrator.whole_file import write_whole

UNITS = "/etc/systemd/system"
UNIT = "ollama@.service"
ENVIRONMENTS = "/etc/ollamactl/instances/"  # by which our template is known from another's of its name
FIREWALL_UNIT = "ollamactl-firewall.service"
RULES = "/etc/ollamactl/firewall.nft"
LOADED = STATE + "/firewall.json"  # what nft listed after our text was loaded
TABLE = ("inet", "ollamactl")
TO_RELOAD = "/run/ollamactl-reload"  # there while systemd has not read what was written

# Loaded before the network is up. Where a service of the host's flushes all rules and loads its own, ours come again.
BOOT_UNIT = f"""\
[Unit]
Description=Who may reach Ollama instances (ollamactl)
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target shutdown.target
After=local-fs.target nftables.service
Conflicts=shutdown.target
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={{nft}} -f {RULES}
ExecReload={{nft}} -f {RULES}

[Install]
WantedBy=sysinit.target
"""


def check_system(work: Work) -> Told:
    """Whether systemd keeps this host's services."""
    first = work.at("/proc/1/comm").read_text().strip()
    if first != "systemd" or not work.at("/run/systemd/system").is_dir():
        raise Refused(f"process 1 is `{first}`, not systemd, which keeps instances running: deploy to another host")
    return False, "systemd"


def have_unit(work: Work, text: str) -> Told:
    """The template that every instance's unit is made of."""
    if work.at(f"{UNITS}/{UNIT}").exists() and not is_our_unit(work):
        raise Refused(f"{UNITS}/{UNIT} is there and not ours: rename that unit, and what is enabled of it")
    is_changed = have_file(work, f"{UNITS}/{UNIT}", text, 0o644)
    return reload(work) or is_changed, f"{UNITS}/{UNIT}"


def have_firewall(work: Work, text: str | None) -> Told:
    """These rules loaded, now and after each boot; without a text none of ours."""
    if text is None:
        return drop_firewall(work), "none"
    nft = shutil.which("nft", path=PATH)
    if nft is None:
        raise Refused(
            "there is no `nft` to keep strangers from the instances: install the package nftables, or set "
            "`deploy.firewall: false`"
        )
    words = f"table {' '.join(TABLE)}"
    if _is_up(work, nft, text):
        return False, words
    if not work.is_dry:
        ran(nft, "--check", "--file", "-", given=text)
        have_file(work, RULES, text, 0o644)
        have_file(work, f"{UNITS}/{FIREWALL_UNIT}", BOOT_UNIT.format(nft=nft), 0o644)
        reload(work)
        ran(nft, "--file", RULES)  # its complaint is better than systemd's
        ran("systemctl", "enable", "--quiet", FIREWALL_UNIT)
        ran("systemctl", "restart", FIREWALL_UNIT)
        loaded = {"text": _digest(text), "listed": _listed(nft)}
        write_whole(work.at(LOADED), json.dumps(loaded) + "\n", mode=0o644)
    return True, words


def drop_firewall(work: Work) -> bool:
    """No rules of ours; whether there were any."""
    unit, rules = work.at(f"{UNITS}/{FIREWALL_UNIT}"), work.at(RULES)
    nft = shutil.which("nft", path=PATH)
    is_loaded = nft is not None and _listed(nft) is not None
    if not (is_loaded or unit.exists() or rules.exists()):
        return False
    if not work.is_dry:
        if unit.exists():
            ran("systemctl", "disable", "--quiet", "--now", FIREWALL_UNIT)
        for each in (unit, rules, work.at(LOADED)):
            if each.exists():
                each.unlink()
        if nft is not None and is_loaded:
            ran(nft, "delete", "table", *TABLE)
        must_reload(work)
        reload(work)
    return True


def is_our_unit(work: Work) -> bool:
    return ENVIRONMENTS in (text_of(work.at(f"{UNITS}/{UNIT}")) or "")


def drop_unit(work: Work) -> bool:
    unit = work.at(f"{UNITS}/{UNIT}")
    if not is_our_unit(work):
        return False
    if not work.is_dry:
        must_reload(work)
        unit.unlink()
        reload(work)
    return True


def _is_up(work: Work, nft: str, text: str) -> bool:
    """Whether all of it is as we left it: files, the unit at boot, and the rules in the kernel."""
    unit, loaded = work.at(f"{UNITS}/{FIREWALL_UNIT}"), work.at(LOADED)
    if text_of(work.at(RULES)) != text or text_of(unit) != BOOT_UNIT.format(nft=nft):
        return False
    try:
        before = json.loads(text_of(loaded) or "{}")
    except ValueError:
        return False
    if before.get("text") != _digest(text) or before.get("listed") != _listed(nft):
        return False
    return ran("systemctl", "is-enabled", "--quiet", FIREWALL_UNIT, check=False).returncode == 0


def _listed(nft: str) -> str | None:
    """Our table as the kernel has it, without counters; None where there is none."""
    done = ran(nft, "--stateless", "list", "table", *TABLE, check=False)
    return done.stdout if done.returncode == 0 else None


def have_file(work: Work, path: str, text: str, mode: int) -> bool:
    """A file of ours with this text; whether something was to be done. `reload` after those of systemd."""
    at = work.at(path)
    if text_of(at) == text:
        return False
    if not work.is_dry:
        if path.startswith(UNITS):
            must_reload(work)
        write_whole(at, text, mode=mode)
    return True


def must_reload(work: Work) -> None:
    """Have the next `reload` be one, also where this run is cut off before it."""
    work.at(TO_RELOAD).touch()


def reload(work: Work) -> bool:
    """Have systemd read its units again, if it has not since they were written; whether it had to."""
    if not work.at(TO_RELOAD).exists():
        return False
    if not work.is_dry:
        ran("systemctl", "daemon-reload")
        work.at(TO_RELOAD).unlink()
    return True


def text_of(path: Path) -> str | None:
    """What is no text in it is like no other: after a crash anything may be there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
