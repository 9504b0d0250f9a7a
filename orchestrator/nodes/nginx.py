"""nginx on this machine: which one, whether it takes a configuration, the file put in place, the reload.

What the file says is left to `core/nginx`. Programs are called with lists of arguments, never through a shell.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from orchestrator.core.errors import HostError
from orchestrator.core.nginx import MARK
from orchestrator.whole_file import write_whole

ANSWERS_WITHIN_S = 30.0
BACKUP = ".before"
# Beside a file that is written and not yet known to be read by nginx; in it whether there was one before.
UNREAD = ".unread"


class Installed(StrEnum):
    """What became of an installation."""

    UNCHANGED = "unchanged"
    RELOADED = "installed, nginx reloaded"
    NOT_RUNNING = "installed; nginx does not run, and reads it when it starts"


@dataclass(frozen=True, slots=True)
class Nginx:
    """One nginx. `main`: its nginx.conf, where that is not the one it was built with."""

    program: str
    main: Path | None = None

    def version(self) -> tuple[int, int, int]:
        """Raises HostError where it does not tell."""
        told = self._run("-v")
        found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", told.stderr)
        if found is None:
            raise HostError(f"{self.program} does not say its version: {_last(told.stderr)}")
        return int(found[1]), int(found[2]), int(found[3])

    def check(self, text: str) -> None:
        """Let nginx read `text` alone, in a folder that is gone afterwards. Raises HostError with nginx' reason."""
        with tempfile.TemporaryDirectory(prefix="ollamactl-nginx-") as name:
            folder = Path(name)
            (folder / "site.conf").write_text(text)
            paths = "".join(
                f"{each}_temp_path {folder}/{each};\n" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            main = folder / "nginx.conf"
            main.write_text(
                f"pid {folder}/nginx.pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
                f"http {{\n{paths}include {folder}/site.conf;\n}}\n"
            )
            command = [self.program, "-t", "-q", "-e", str(folder / "error.log"), "-p", name, "-c", str(main)]
            told = _run(command)
            if told.returncode:
                raise HostError(f"nginx refuses it: {_last(told.stderr)}")

    def install(self, text: str, file: Path, *, is_forced: bool = False) -> Installed:
        """Put `text` at `file` and have nginx read it; what was there stays beside it, and comes back where nginx
        refuses the whole. One that was killed half-way is finished by the next. Raises HostError: then nothing has
        changed."""
        there, unread = _read(file), _read(_beside(file, UNREAD))
        if there == text and unread is None:
            return Installed.UNCHANGED
        if there is not None and not there.startswith(MARK) and not is_forced:
            raise HostError(f"{file} was not written by `ollamactl nginx`; name another --file, or --force")
        # nginx has read what stands there, but where somebody was killed before it could.
        before = there if unread is None else _read(_beside(file, BACKUP)) if unread else None
        try:
            if before is not None:
                write_whole(_beside(file, BACKUP), before, mode=0o644)
            write_whole(_beside(file, UNREAD), "" if before is None else "before\n", mode=0o644)
            write_whole(file, text, mode=0o644)
        except OSError as why:
            raise HostError(f"cannot write {file}: {why.strerror}; run it as root, or name another --file") from why
        try:
            self._accepts(file)
            became = self._reload()
        except BaseException:
            _put_back(file, before)
            raise
        _beside(file, UNREAD).unlink(missing_ok=True)
        return became

    def _accepts(self, file: Path) -> None:
        """Raises HostError where nginx refuses its whole configuration, or does not read `file` as a part of it."""
        told = self._run("-T")
        if told.returncode:
            raise HostError(f"nginx refuses its configuration with {file}: {_last(told.stderr)}; it was put back")
        if f"# configuration file {file.absolute()}:" not in told.stdout:
            raise HostError(f"nginx.conf includes no {file}; name a --file in a folder that it includes")

    def _reload(self) -> Installed:
        if self.main is None and Path("/run/systemd/system").is_dir():
            if _run(["systemctl", "is-active", "--quiet", "nginx"]).returncode:
                return Installed.NOT_RUNNING
            told = _run(["systemctl", "reload", "nginx"])
        else:
            told = self._run("-s", "reload")
            if told.returncode and re.search(r"nginx\.pid|invalid PID number|No such process", told.stderr):
                return Installed.NOT_RUNNING
        if told.returncode:
            raise HostError(f"nginx was not reloaded: {_last(told.stderr)}; the file was put back")
        return Installed.RELOADED

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        main = () if self.main is None else ("-c", str(self.main.absolute()))
        return _run([self.program, *main, *arguments])


def find_nginx(main: Path | None = None) -> Nginx | None:
    """This machine's nginx; many a user's PATH lacks the folder it lies in."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/nginx/sbin")
    return None if found is None else Nginx(found, main)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, timeout=ANSWERS_WITHIN_S
        )
    except (OSError, subprocess.TimeoutExpired) as why:
        raise HostError(f"cannot run {command[0]}: {why}") from why


def _last(stderr: str) -> str:
    """nginx' own reason: its first line that is an error, without the rest."""
    lines = [each for each in stderr.splitlines() if "[emerg]" in each or "[error]" in each] or stderr.splitlines()
    return re.sub(r"^nginx: |^[\d/]+ [\d:]+ \[\w+\] \d+#\d+: ", "", lines[0]) if lines else "it says nothing"


def _read(file: Path) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as why:
        raise HostError(f"cannot read {file}: {why}") from why


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)


def _put_back(file: Path, before: str | None) -> None:
    if before is None:
        file.unlink(missing_ok=True)
    else:
        write_whole(file, before, mode=0o644)
    _beside(file, UNREAD).unlink(missing_ok=True)
