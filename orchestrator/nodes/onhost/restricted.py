"""The one program that a restricted host lets its account start as root; it does what is sent to other hosts.

It reads what it is asked from its standard input, has every word of it held to the host's policy, and goes on as the
module that does it. Who asks is not believed: neither what the environment says nor what lies in the folder of models,
which instances write in: it is read with no more rights than their own user has. All else that is changed is root's
alone, up to the first folder, and so is the place of that folder.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.nodes.onhost import (
    accounts,
    base,
    blobs,
    giving,
    keeps,
    kept,
    look,
    nvml,
    ollamas,
    policy,
    taking,
    tls_text,
    trusted,
    units,
)
from orchestrator.nodes.onhost.gpus import GpuReader
from orchestrator.nodes.onhost.policy import PROGRAM, PYTHON, REFUSED, Policy
from orchestrator.nodes.onhost.work import LOCK, PATH, Refused, in_words

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

MOST_PACKED_BYTES, MOST_BYTES = 16 * 2**20, 64 * 2**20
# What is changed here by root, and where it looks for programs, must be root's alone, up to the first folder.
TRUSTED = (
    *(PYTHON, PROGRAM, policy.FILE, *accounts.OURS, tls_text.FOLDER, kept.UNITS, os.path.dirname("/" + LOCK)),  # noqa: PTH120
    *PATH.split(":"),
)


def main(version: str) -> None:
    """As sudo starts it. `version`: of the modules that this program was made of."""
    _settle()
    root = Path("/")
    try:
        if os.geteuid() != 0:
            raise Refused("only root can do that: start it by sudo")
        here = known(root)
        sent = read(sys.stdin.buffer)
        if sent.get("version") != version:
            raise Refused(
                "the program that it was restricted to is of another version than this ollamactl: "
                f"run `ollamactl nodes restrict {here.node}` again"
            )
        Host(root, here, version).run(sent)
    except Refused as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(REFUSED)


def _settle() -> None:
    """Whatever whoever starts this has set counts for nothing."""
    os.environ.clear()
    os.environ.update(PATH=PATH, LC_ALL="C")
    os.chdir("/")
    os.umask(0o022)


def known(root: Path, uid: int = 0) -> Policy:
    """The host's policy, once it is sure that it is root's. Raises Refused."""
    for path in TRUSTED:
        trusted.check(root, path, uid)
    try:
        content = (root / policy.FILE.lstrip("/")).read_text(encoding="utf-8")
    except OSError as error:
        raise Refused(f"{policy.FILE}: {error.strerror}: run `ollamactl nodes restrict` again") from error
    here = policy.parse(content)
    try:
        trusted.check(root, here.models_dir, uid, but_itself=True)
    except Refused as error:
        raise Refused(f"models_dir {here.models_dir}: {error}, or name another `models_dir`") from error
    return here


def read(line: BinaryIO) -> dict[str, Any]:
    """What is asked: a count of bytes, and so many of compressed JSON. Raises Refused."""
    try:
        count = int(line.readline(32))
        if not 0 < count <= MOST_PACKED_BYTES:
            raise ValueError("too much")
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(line.read(count), MOST_BYTES)
        if unpacker.unconsumed_tail:
            raise ValueError("too much")
        sent = json.loads(content)
    except (ValueError, zlib.error, RecursionError) as error:
        raise Refused("what was sent is nothing that could be read") from error
    if not isinstance(sent, dict):
        raise Refused("what was sent is nothing that could be read")
    return sent


class Host:
    """A restricted host. `root` is where its paths begin."""

    def __init__(self, root: Path, policy: Policy, version: str = "") -> None:
        self._root, self._policy, self._version = root, policy, version

    def run(self, sent: dict[str, Any]) -> None:
        """Do what is asked. Raises Refused for what nobody may ask here."""
        main = policy.check_sent(self._policy, sent)
        does: dict[str, Callable[[dict[str, Any]], None]] = {
            policy.BASE: lambda sent: base.main({**sent, "root": str(self._root)}),
            policy.KEEPS: self._keeps,
            policy.LOOK: self._look,
            policy.READER: lambda sent: nvml.serve(self._root),
            policy.GIVING: lambda sent: self._as_user(giving.main, sent),
            policy.TAKING: lambda sent: self._as_user(taking.main, sent),
            policy.LOGS: _logs,
            policy.RUNS: _runs,
            policy.VERSION: lambda sent: None,
        }
        does[main](sent)

    def _user(self) -> pwd.struct_passwd:
        """Whom instances run as, who is never root. Raises Refused."""
        user = accounts.account(self._policy.user)
        if user is None:
            raise Refused(f"there is no user {self._policy.user}")
        if user.pw_uid == 0:
            raise Refused(f"{self._policy.user} is root, whom no instance of a restricted host runs as")
        return user

    def _keeps(self, sent: dict[str, Any]) -> None:
        try:
            Service(self._policy, sent["known"]).serve()
        finally:
            os._exit(0)  # as `keeps` does

    def _as_user(self, do: Callable[[dict[str, Any]], None], sent: dict[str, Any]) -> None:
        self._user()
        blobs.become(self._policy.user)
        do(sent)

    def _look(self, sent: dict[str, Any]) -> None:
        packed = zlib.compress(json.dumps({"main": policy.READER, "version": self._version}).encode())
        given = b"%d\n" % len(packed) + packed
        reader = GpuReader([PYTHON, "-I", "-S", PROGRAM], given, wait_s=sent["nvml_wait_s"])
        look.look(sent, reader, _Models(Path(sent["models_dir"]), accounts.account(self._policy.user)))


class Service(keeps.Service):
    """Keeps instances, and does no request that the policy does not know."""

    def __init__(self, policy: Policy, known: dict[str, Any]) -> None:
        super().__init__(known)
        self._policy = policy

    def _handle(self, request: dict[str, Any]) -> None:
        try:
            policy.check_request(self._policy, request)
        except Refused as error:
            self._say({"id": request.get("id") if isinstance(request, dict) else None, "error": str(error)})
        else:
            super()._handle(request)


class _Models(ollamas.Models):
    """Read with the rights of the user whose they are: what they are links to is theirs to read, or is not read."""

    def __init__(self, folder: Path, user: pwd.struct_passwd | None) -> None:
        super().__init__(folder)
        self._user = user

    def present(self) -> tuple[list[dict[str, Any]], list[str]]:
        if self._user is None or self._user.pw_uid == 0:
            return [], []
        with _acting_as(self._user):
            return super().present()


@contextmanager
def _acting_as(user: pwd.struct_passwd) -> Iterator[None]:
    groups = os.getgroups()
    os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _logs(sent: dict[str, Any]) -> None:
    """The journal of one instance, by the journal's own program."""
    journal = shutil.which("journalctl", path=PATH)
    if journal is None:
        raise Refused("no `journalctl` there")
    words = [journal, "--no-pager", "--quiet", "--output=cat", f"--lines={sent['lines']}"]
    words += ["--follow"] if sent["follow"] else []
    os.execv(journal, [*words, f"--unit={units.unit_of(sent['instance'])}"])  # noqa: S606 (a list of words)


def _runs(sent: dict[str, Any]) -> None:
    """The program that an instance's process runs, as the kernel names it."""
    try:
        pid = units.looks(sent["instance"])[sent["instance"]]["pid"]
        if not pid:
            raise Refused(f"{units.unit_of(sent['instance'])} does not run")
        print(os.readlink(f"/proc/{pid}/exe"))
    except units.Trouble as error:
        raise Refused(str(error)) from error
    except OSError as error:
        raise Refused(in_words(error)) from error
