"""Makes this host a restricted one, and undoes that. Sent as a program, by somebody who may do everything here.

Files that are root's alone: the program, the policy that it goes by, and last the rule of sudo, once sudo itself has
read it and finds it right. Undone in the reverse order.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.nodes.onhost import trusted
from orchestrator.nodes.onhost.work import PATH, Refused, Work, alone, in_words, ran
from orchestrator.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable


def main(sent: dict[str, Any]) -> None:
    """`files`: by path, the content in base64 and the mode, in the order in which they are put there; the last one is
    the rule. `needs`: paths that must be root's alone. `trial`: a command that must end well before the rule is there,
    and its input in base64."""
    os.umask(0o022)
    work = Work(Path(sent["root"]))
    files = {path: (base64.b64decode(content), mode) for path, (content, mode) in sent["files"].items()}
    try:
        with alone(work):
            told = undo(work, list(files)) if sent["is_undo"] else _restrict(work, files, sent)
        sys.stdout.write(json.dumps({"changed": told}) + "\n")
    except Refused as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
    except OSError as error:
        sys.stdout.write(json.dumps({"error": in_words(error)}) + "\n")


def _restrict(work: Work, files: dict[str, tuple[bytes, int]], sent: dict[str, Any]) -> list[str]:
    command, given = sent["trial"]
    return restrict(work, files, sent["needs"], lambda: _try(command, base64.b64decode(given)))


def restrict(
    work: Work, files: dict[str, tuple[bytes, int]], needs: list[str], is_fit: Callable[[], None], uid: int = 0
) -> list[str]:
    """Those files that were to be written. Raises Refused; the rule is written last, once all else `is_fit`."""
    for path in (*needs, *files):
        trusted.check(work.root, path, uid)
    (rule, its_content), others = list(files.items())[-1], list(files.items())[:-1]
    _check_rule(work, rule, its_content[0])
    changed = [path for path, content in others if _have(work, path, *content)]
    is_fit()
    return changed + ([rule] if _have(work, rule, *its_content) else [])


def _try(command: list[str], given: bytes) -> None:
    """Raises Refused where the program does not run: who logs in could do nothing any more."""
    done = subprocess.run(command, input=given, capture_output=True, check=False)  # noqa: S603 (a list of words)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Refused(said[-1] if said else f"the program ended with status {done.returncode}")


def undo(work: Work, paths: list[str]) -> list[str]:
    """Those files that were there."""
    there = [path for path in reversed(paths) if work.at(path).exists()]
    for path in there:
        work.at(path).unlink()
    for folder in {work.at(path).parent for path in there if "ollamactl" in Path(path).parent.name}:
        if not os.listdir(str(folder)):  # noqa: PTH208
            folder.rmdir()
    return there


def _have(work: Work, path: str, content: bytes, mode: int) -> bool:
    at = work.at(path)
    if at.is_file() and at.read_bytes() == content and at.stat().st_mode & 0o7777 == mode:
        return False
    at.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_whole(at, content, mode=mode)
    return True


def _check_rule(work: Work, path: str, content: bytes) -> None:
    """Raises Refused where sudo would not take the rule: with one wrong file it may take none at all."""
    if shutil.which("visudo", path=PATH) is None:
        raise Refused("no `visudo` there: install sudo")
    if not work.at(path).parent.is_dir():
        raise Refused(f"there is no {Path(path).parent}: its sudo reads no rules from files")
    # sudo reads no file with a dot in its name.
    tried = work.at(path).with_name(f".{Path(path).name}.tried")
    try:
        write_whole(tried, content, mode=0o440)
        ran("visudo", "--check", "--quiet", f"--file={tried}")
    finally:
        if tried.exists():
            tried.unlink()
