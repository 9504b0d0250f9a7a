"""Takes one model from another host: what is missing of its blobs, each checked, and its manifest when all are there.

A blob has a name of its own until its digest is right, and is gone on with where it was left. Whatever goes wrong, what
lies under a blob's name is whole, and no manifest names a blob that is not there. A line of JSON an interval tells how
far it is, the last one how it ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import shutil
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.nodes.onhost import leash
from orchestrator.nodes.onhost.blobs import Trouble, become, blob_path, make_folders, manifest_path

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTIAL = ".partial-ollamactl"
_PIECE_BYTES = 2**20


class Taking:
    """One model's way here. `bundle`: where from, what, and what must stay free."""

    def __init__(self, bundle: dict[str, Any]) -> None:
        self._at = (bundle["host"], bundle["port"])
        self._token = bundle["token"]
        self._blobs: dict[str, int] = bundle["blobs"]
        self._folder = Path(bundle["models_dir"])
        self._later_bytes, self._keep_free_bytes = bundle["later_bytes"], bundle["keep_free_bytes"]
        self._silence_s = bundle["silence_s"]
        self._manifest = manifest_path(self._folder, bundle["parts"])
        self._manifest_text: str = bundle["manifest"]
        self.total = sum(self._blobs.values())
        self.done = 0

    def run(self) -> None:
        """Raises Trouble."""
        try:
            missing = {name: size for name, size in self._blobs.items() if not self._is_there(name, size)}
            self.done = self.total - sum(missing.values())
            self._check_room(missing)
            for name, size in sorted(missing.items(), key=lambda each: each[1]):
                self._take(name, size)
            self._put_manifest()
        except OSError as error:
            raise Trouble("target", f"{error.filename or self._folder}: {error.strerror or error}") from error

    def _is_there(self, name: str, size: int) -> bool:
        path = blob_path(self._folder, name)
        return path.is_file() and path.stat().st_size == size

    def _check_room(self, missing: dict[str, int]) -> None:
        partials = [_partial(blob_path(self._folder, name)) for name in missing]
        begun = sum(each.stat().st_size for each in partials if each.is_file())
        needed = sum(missing.values()) - begun + self._later_bytes
        free = max(0, shutil.disk_usage(str(self._folder)).free - self._keep_free_bytes)
        if needed > free:
            raise Trouble(
                "target",
                f"no room in {self._folder}: {_mib(needed)} are wanted and {_mib(free)} free, besides "
                f"{_mib(self._keep_free_bytes)} that stay so; remove models there or name another `models_dir`",
            )

    # --- one blob ----------------------------------------------------------------------------------------------------

    def _take(self, name: str, size: int) -> None:
        path, before = blob_path(self._folder, name), self.done
        partial = _partial(path)
        with _alone(partial) as file:
            if not self._is_there(name, size):  # it is where somebody else took it meanwhile
                try:
                    self._complete(file, name, size)
                except (OSError, Trouble) as error:
                    # What was begun is gone on with later, but not kept on a full disk, nor where it is wrong.
                    if not isinstance(error, Trouble) or error.fault == "corrupt":
                        partial.unlink()
                    raise
                os.fsync(file)
                partial.rename(path)
        self.done = before + size

    def _complete(self, file: int, name: str, size: int) -> None:
        """All of the blob in the file. Raises OSError for this host's disk, Trouble for the other side."""
        before = self.done
        digest = hashlib.sha256()
        begun = self._read(file, size, digest)
        self._fetch(file, name, begun, size, digest, before)
        if begun and digest.hexdigest() != name[7:]:  # what was there already may be what is wrong
            os.ftruncate(file, 0)
            digest = hashlib.sha256()
            self._fetch(file, name, 0, size, digest, before)
        if digest.hexdigest() != name[7:]:
            raise Trouble("corrupt", f"{name} is damaged there: its content has another digest")

    def _read(self, file: int, size: int, digest: Any) -> int:
        """How much is there already; what is there beyond the blob's size is not the blob's."""
        if os.fstat(file).st_size > size:
            os.ftruncate(file, 0)
        before, count = self.done, 0
        os.lseek(file, 0, os.SEEK_SET)
        while True:
            piece = os.read(file, _PIECE_BYTES)
            if not piece:
                return count
            digest.update(piece)
            count += len(piece)
            self.done = before + count

    def _fetch(self, file: int, name: str, begun: int, size: int, digest: Any, before: int) -> None:
        os.lseek(file, begun, os.SEEK_SET)
        count = begun
        with closing(http.client.HTTPConnection(*self._at, timeout=self._silence_s)) as connection:
            reply = self._asked(connection, name, begun)
            while count < size:
                piece = self._next(reply, size - count)
                digest.update(piece)
                _write(file, piece)
                count += len(piece)
                self.done = before + count

    def _asked(self, connection: http.client.HTTPConnection, name: str, begun: int) -> http.client.HTTPResponse:
        try:
            connection.connect()
        except OSError as error:
            raise Trouble("way", f"{self._at[0]}:{self._at[1]}: {error.strerror or error}") from error
        try:
            headers = {"Authorization": f"Bearer {self._token}", "Range": f"bytes={begun}-"}
            connection.request("GET", f"/{name}", headers=headers)
            reply = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise Trouble("source", f"it took the call and said nothing ({error or type(error).__name__})") from error
        if reply.status not in (200, 206) or (begun and reply.status != 206):
            raise Trouble("source", f"it answered {reply.status} for {name}")
        return reply

    def _next(self, reply: http.client.HTTPResponse, most: int) -> bytes:
        try:
            piece = reply.read1(min(_PIECE_BYTES, most))
        except (OSError, http.client.HTTPException) as error:
            raise Trouble("source", f"it fell silent ({error or type(error).__name__})") from error
        if not piece:
            raise Trouble("source", f"it ended {most:,} bytes early")
        return piece

    # --- the manifest ------------------------------------------------------------------------------------------------

    def _put_manifest(self) -> None:
        """Last, and in one step. It is written elsewhere: in its own folder any file is a model's."""
        for each in reversed([each for each in self._manifest.parents if not each.exists()]):
            each.mkdir()
        beside = self._folder / "blobs" / f"manifest-{os.getpid()}{PARTIAL}"
        try:
            with beside.open("wb") as file:
                file.write(self._manifest_text.encode())
                file.flush()
                os.fsync(file.fileno())
            beside.rename(self._manifest)
        except OSError:
            beside.unlink()
            raise


@contextmanager
def _alone(partial: Path) -> Iterator[int]:
    """The file, open, and nobody else's: an earlier copy that nobody hears of any more may still write to it.

    One like that ends by itself after some silence, so it is waited for.
    """
    while True:
        file = os.open(str(partial), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if partial.exists() and os.path.samestat(os.fstat(file), partial.stat()):
                yield file
                return
        finally:
            os.close(file)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def _write(file: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(file, rest) :]


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _tell(taking: Taking, interval_s: float, is_over: threading.Event) -> None:
    while not is_over.wait(interval_s):
        leash.say({"done": taking.done, "total": taking.total})


def main(bundle: dict[str, Any]) -> None:
    """As it is started over SSH: `bundle` is what was sent."""
    leash.end_with_input(bundle["silence_s"])
    is_over = threading.Event()
    try:
        make_folders(Path(bundle["models_dir"]), bundle["owner"])
        become(bundle["owner"])
        os.umask(0o022)
        taking = Taking(bundle)
        threading.Thread(target=_tell, args=(taking, bundle["interval_s"], is_over), daemon=True).start()
        taking.run()
    except Trouble as trouble:
        is_over.set()
        leash.end(1, {"error": str(trouble), "fault": trouble.fault})
    else:
        is_over.set()
        leash.end(0, {"done": taking.total, "total": taking.total, "is_there": True})
