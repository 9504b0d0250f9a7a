"""Everything of ours taken from a host again, in the reverse order of its coming; what others made is left."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from orchestrator.nodes.onhost import accounts, kept, owner, tls
from orchestrator.nodes.onhost.tls_text import FOLDER as TLS
from orchestrator.nodes.onhost.work import STATE, Told, Work, ran

if TYPE_CHECKING:
    from pathlib import Path

INSTANCES = "ollama@*.service"
OURS = ("/opt/ollamactl", "/etc/ollamactl/instances", TLS, STATE)


def permit(work: Work, place: str, number: int, take_over: bool) -> Told:
    """Go on where the host is that place's, or nobody's."""
    now = owner.recorded(work)
    if now is not None and not take_over:
        owner.refuse_others(now, place, number)
    return False, "nobody's" if now is None else f"{now['place']}, deployment {now['number']}"


def stop_instances(work: Work) -> Told:
    """No unit of the template runs, and none starts at boot."""
    names = sorted({*_units("list-units", "--all"), *_units("list-unit-files"), *_enabled(work)})
    names = [each for each in names if each != kept.UNIT and kept.is_our_unit(work)]
    if names and not work.is_dry:
        ran("systemctl", "disable", "--quiet", "--now", *names, check=False)
        ran("systemctl", "stop", *names)
        ran("systemctl", "reset-failed", *names, check=False)
    return bool(names), f"{len(names)} stopped" if names else "none"


def drop_kept(work: Work) -> Told:
    """Neither the unit nor the firewall's rules, nor what ends TLS."""
    drops = (("firewall", kept.drop_firewall), ("TLS", tls.drop), ("unit", kept.drop_unit))
    gone = [name for name, drop in drops if drop(work)]
    return bool(gone), f"{' and '.join(gone)} gone" if gone else "none"


def drop_models(work: Work, models_dir: str) -> Told:
    """No models in the folder; what else lies in it stays, and so does the folder then."""
    gone = [each for each in (work.at(models_dir) / name for name in ("manifests", "blobs")) if each.exists()]
    if not work.is_dry:
        for each in gone:
            shutil.rmtree(str(each))
        _rmdir(work.at(models_dir))
    return bool(gone), f"those in {models_dir}" if gone else "none"


def drop_user(work: Work, user: str, models_dir: str, are_models_gone: bool) -> Told:
    """No user that we made. One who owns models stays: their number must not become somebody else's."""
    known = accounts.account(user)
    if known is None or not accounts.is_ours(known):
        return False, f"{user} is not ours" if known is not None else "none"
    models = work.at(models_dir)
    if not are_models_gone and models.exists() and models.stat().st_uid == known.pw_uid:
        return False, f"{user} stays: the models are theirs"
    if not work.is_dry:
        ran("userdel", user)
    return True, f"{user} gone"


def drop_folders(work: Work) -> Told:
    """None of our folders; whose the host is goes with the last one. What a cluster has in /etc/ollamactl stays."""
    known = [each for each in OURS if work.at(each).exists()]
    if not work.is_dry:
        for each in (work.at(each) for each in known):
            shutil.rmtree(str(each.resolve()))  # it may be a link to a larger disk
            if each.is_symlink():
                each.unlink()
        _rmdir(work.at("/etc/ollamactl"))
    return bool(known), f"{', '.join(known)} gone" if known else "none"


def _units(*asked: str) -> list[str]:
    listed = ran("systemctl", *asked, "--no-legend", "--plain", "--no-pager", INSTANCES, check=False).stdout
    return [line.split()[0] for line in listed.splitlines() if line.strip()]


def _enabled(work: Work) -> list[str]:
    """Those that a target wants, whether or not systemd has loaded them."""
    return [each.name for each in work.at(kept.UNITS).glob("*.wants/" + INSTANCES)]


def _rmdir(folder: Path) -> None:
    if folder.is_dir() and not os.listdir(str(folder)):  # noqa: PTH208
        folder.rmdir()
