"""Ollama's program for hosts: a file of this machine or a download, checked by its digest, made fit to be sent.

Downloaded and checked once, kept in the state folder, and read from there by every host's connection. A host unpacks
with its Python alone, which knows gzip: an archive that is compressed otherwise is packed anew here. How it gets to a
host is `hoststeps`' part.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import ssl
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

import aiohttp
import orjson
import zstandard

from orchestrator.core.errors import HostError
from orchestrator.nodes.onhost.archive import CHUNK_BYTES, UnfitArchive, size_of
from orchestrator.whole_file import write_whole

# A server that sends nothing for so long has stopped; how long all of it takes is the line's affair.
SILENT_S = 60.0
KEPT = 3  # programs of which the state folder keeps the bytes
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_PROGRAMS = (b"\x7fELF", b"#!")
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"PK": "zip", b"!<arch>": "a Debian package"}
_TAR_AT, _TAR = 257, b"ustar"


@dataclass(frozen=True, slots=True)
class Ready:
    """What is sent: a file, its own digest and size, and how much it is once unpacked."""

    path: Path
    sha256: str
    size_bytes: int
    unpacked_bytes: int
    is_archive: bool


class Program:
    """One version of Ollama, known by the digest of the file that the operator named."""

    def __init__(self, source: str, digest: str, folder: Path, tls: ssl.SSLContext | None = None) -> None:
        self.source = source
        self.digest = digest
        self._folder = folder
        self._tls = tls
        self._one = asyncio.Lock()
        self._ready: Ready | None = None
        self._failed: str | None = None

    async def ready(self) -> Ready:
        """The file to send; whoever asks first has it made, the others wait. Raises HostError, the same to all."""
        async with self._one:
            if self._ready is None and self._failed is None:
                try:
                    file = await self._fetched() if is_url(self.source) else Path(self.source)
                    self._ready = await asyncio.to_thread(_made_ready, file, self.digest, self._folder)
                except HostError as error:
                    self._failed = str(error)
            if self._ready is None:
                raise HostError(self._failed)
            return self._ready

    async def _fetched(self) -> Path:
        kept = self._folder / f"{self.digest}.download"
        # One process at a time: two that deploy download it once.
        with await asyncio.to_thread(_lock, kept.with_suffix(".lock")):
            if not kept.exists():
                await fetch(self.source, self.digest, kept, self._tls)
        return kept


def is_url(source: str) -> bool:
    return "://" in source


async def program(source: str, sha256: str | None, folder: Path, tls: ssl.SSLContext | None = None) -> Program:
    """The version that `source`, a path or an https URL, stands for; nothing is downloaded yet. Raises HostError.

    `folder` keeps downloads and what was made of them.
    """
    if is_url(source):
        if sha256 is None:
            raise HostError("deploy.sha256: a URL needs the digest of what it leads to")
        return Program(source, sha256, folder, tls)
    found = await asyncio.to_thread(_digest, Path(source))
    if sha256 is not None and found != sha256:
        raise HostError(f"deploy.sha256: {source} is another file: its sha256 is {found}, not {sha256}")
    return Program(source, found, folder, tls)


async def fetch(url: str, sha256: str, to: Path, tls: ssl.SSLContext | None = None) -> None:
    """Download to `to`, whole and checked or not at all. Raises HostError."""
    part = to.with_suffix(".part")
    part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    hashed = hashlib.sha256()
    waits = aiohttp.ClientTimeout(total=None, sock_connect=SILENT_S, sock_read=SILENT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=waits, trust_env=True, auto_decompress=False) as session,
            session.get(url, ssl=tls if tls is not None else True) as answer,
        ):
            if answer.status != 200:
                raise HostError(f"deploy.ollama: {url} answers {answer.status} {answer.reason}")
            with part.open("wb") as file:
                async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                    hashed.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
        if hashed.hexdigest() != sha256:
            raise HostError(
                f"deploy.sha256: what {url} leads to is another file: its sha256 is {hashed.hexdigest()}, not {sha256}"
            )
        part.replace(to)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise HostError(f"deploy.ollama: {url} cannot be downloaded: {error or type(error).__name__}") from error
    except OSError as error:
        raise HostError(f"deploy.ollama: {part}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _lock(path: Path) -> TextIO:
    """The file, held by this process alone until it is closed."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except BaseException:
        file.close()
        raise
    return file


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise HostError(f"deploy.ollama: no such file: {path}") from error
    except OSError as error:
        raise HostError(f"deploy.ollama: {path} cannot be read: {error.strerror or error}") from error


def _made_ready(path: Path, digest: str, folder: Path) -> Ready:
    """The file to send for the one at `path`; what it took to find that out is kept."""
    note, packed = folder / f"{digest}.json", folder / f"{digest}.tar.gz"
    if note.exists():
        told = orjson.loads(note.read_bytes())
        kept = Ready(packed if told.pop("is_packed") else path, **told)
        if kept.path.exists():
            note.touch()
            return kept
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        ready = _looked_at(path, digest, packed)
    except (UnfitArchive, zstandard.ZstdError) as error:
        raise HostError(f"deploy.ollama: {path}: {error}") from error
    except OSError as error:
        raise HostError(f"deploy.ollama: {path}: {error.strerror or error}") from error
    told = {**asdict(ready), "is_packed": ready.path == packed}
    write_whole(note, orjson.dumps({key: value for key, value in told.items() if key != "path"}))
    _forget_old(folder)
    return ready


def _forget_old(folder: Path) -> None:
    """Take away what was kept of programs that were not wanted for longest. Who reads one now reads it to its end."""
    notes = sorted(folder.glob("*.json"), key=lambda each: each.stat().st_mtime, reverse=True)
    for note in notes[KEPT:]:
        for kind in (".download", ".tar.gz", ".lock", ".json"):
            note.with_suffix(kind).unlink(missing_ok=True)


def _looked_at(path: Path, digest: str, packed: Path) -> Ready:
    with path.open("rb") as file:
        head = file.read(_TAR_AT + len(_TAR))
    if head.startswith(_PROGRAMS):
        size = path.stat().st_size
        return Ready(path, digest, size, size, is_archive=False)
    if head.startswith(_GZIP):
        return Ready(path, digest, path.stat().st_size, size_of(path), is_archive=True)
    if head.startswith(_ZSTD) or head[_TAR_AT:] == _TAR:
        _pack(path, packed, is_zstd=head.startswith(_ZSTD))
        return Ready(packed, _digest(packed), packed.stat().st_size, size_of(packed), is_archive=True)
    what = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), "neither program nor archive")
    raise UnfitArchive(f"is {what}; name a program, a .tar.gz or a .tar.zst of it")


def _pack(path: Path, to: Path, *, is_zstd: bool) -> None:
    """The tar file in gzip's form: quickly rather than small, as it is done while somebody waits."""
    part = to.with_suffix(".part")
    packer = zlib.compressobj(level=1, wbits=31)
    try:
        with path.open("rb") as file, part.open("wb") as packed:
            for chunk in _plain(file, is_zstd=is_zstd):
                packed.write(packer.compress(chunk))
            packed.write(packer.flush())
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)


def _plain(file: BinaryIO, *, is_zstd: bool) -> Iterator[bytes]:
    if is_zstd:
        yield from zstandard.ZstdDecompressor().read_to_iter(file, write_size=CHUNK_BYTES)
        return
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
