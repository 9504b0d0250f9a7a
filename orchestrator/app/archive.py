"""A backup as one file: a gzipped tar with a manifest of checksums, sealed with a passphrase where there is one.

It knows the file's form and nothing of what is in it. Sealed it is AES-256-GCM in pieces, each bound to its place and
the last one to being the last (the STREAM construction, eprint 2015/189), under a key that scrypt makes of the
passphrase: what was changed, cut or put in another order does not open.

An archive may come from anybody: it is unpacked piece by piece, to so much and no more, and never out of its folder.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import TypeAdapter, ValidationError

from orchestrator.core.errors import HostError
from orchestrator.whole_file import have_last

FORMAT: Final = 1
_MANIFEST: Final = "manifest.json"
_MAGIC: Final = b"OLLAMACTL-BACKUP-1\n"
_SALT, _PREFIX, _TAG, _PIECE = 16, 7, 16, 2**20
# Some 60 ms and 32 MiB a try (RFC 7914's n, r, p): a guess costs that much, too.
_SCRYPT: Final = {"n": 2**15, "r": 8, "p": 1}
SHORTEST_PASSPHRASE: Final = 12
# What a backup holds at most, both when it is made and when it is read. The request log alone grows with each call; a
# single file of it is bounded as all the others together are.
LARGEST_BYTES: Final = 2**30
LARGEST_LOG_BYTES: Final = 2**36
MOST_FILES: Final = 100_000
_LOG: Final = "state/calls/"
_LARGEST_MANIFEST: Final = 2**26
# Nothing larger is in memory at once, headers of the tar included.
_AT_ONCE: Final = 2**16


@dataclass(frozen=True, slots=True)
class Member:
    """One file to be kept, by its name in the archive."""

    name: str
    content: bytes
    mode: int = 0o600


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as the manifest has it."""

    sha256: str
    bytes: int
    mode: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the archive holds, and whence; `left_out`: what it does not hold though it was named, and why."""

    format: int
    program: str
    made_unix_ms: int
    host: str
    state: str
    files: Mapping[str, Listed]
    left_out: Sequence[str] = ()


_MANIFESTS: TypeAdapter[Manifest] = TypeAdapter(Manifest)


@dataclass(slots=True)
class _Room:
    """How much of a backup there has been so far."""

    path: Path
    files: int = 0
    rest: int = 0
    log: int = 0

    def take(self, name: str, size: int) -> None:
        """Raise HostError where one more file is too much."""
        self.files += 1
        if name.startswith(_LOG):
            self.log += size
        else:
            self.rest += size
        if not 0 <= size <= LARGEST_BYTES or self.rest > LARGEST_BYTES or self.log > LARGEST_LOG_BYTES:
            raise HostError(
                f"{self.path}: a backup has {LARGEST_BYTES / 2**30:g} GiB of files at most, and "
                f"{LARGEST_LOG_BYTES / 2**30:g} GiB of the request log; one that has more is neither made nor unpacked"
            )
        if self.files > MOST_FILES:
            raise HostError(f"{self.path}: a backup has {MOST_FILES} files at most; more are neither kept nor unpacked")


def passphrase_in(path: Path) -> bytes:
    """A passphrase file's first line. Raises HostError."""
    try:
        said = path.read_bytes().split(b"\n", 1)[0].strip()
    except OSError as why:
        raise HostError(f"{path} cannot be read: {why.strerror}") from why
    if len(said) < SHORTEST_PASSPHRASE:
        raise HostError(f"{path}: a passphrase has {SHORTEST_PASSPHRASE} characters or more, on the first line")
    return said


# --- written ----------------------------------------------------------------------------------------------------------


def write(path: Path, members: Iterable[Member], about: Manifest, passphrase: bytes | None) -> Manifest:
    """Write the archive, its owner's alone, whole or not at all; what it lists. Raises HostError."""
    try:
        # Without a name: whatever happens, nothing unsealed stays.
        with tempfile.TemporaryFile(dir=path.parent) as plain:
            manifest = _pack(plain, members, about, _Room(path))
            plain.seek(0)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # 0600
            try:
                with os.fdopen(handle, "wb") as out:
                    for piece in _pieces(plain) if passphrase is None else _sealed(plain, passphrase):
                        out.write(piece)
                    out.flush()
                    os.fsync(out.fileno())
                os.link(name, path)
            finally:
                Path(name).unlink()
            have_last(path.parent)
    except FileExistsError as why:
        raise HostError(f"{path} is there already; name another, or remove it") from why
    except OSError as why:
        raise HostError(f"{path} cannot be written: {why.strerror}") from why
    return manifest


def _pack(out: IO[bytes], members: Iterable[Member], about: Manifest, room: _Room) -> Manifest:
    files: dict[str, Listed] = {}
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for each in members:
            room.take(each.name, len(each.content))
            _add(tar, each)
            digest = hashlib.sha256(each.content).hexdigest()
            files[each.name] = Listed(digest, len(each.content), each.mode)
        manifest = Manifest(FORMAT, about.program, about.made_unix_ms, about.host, about.state, files, about.left_out)
        _add(tar, Member(_MANIFEST, _MANIFESTS.dump_json(manifest, indent=1)))
    return manifest


def _add(tar: tarfile.TarFile, member: Member) -> None:
    info = tarfile.TarInfo(member.name)
    info.size, info.mode, info.mtime = len(member.content), member.mode, int(time.time())
    tar.addfile(info, io.BytesIO(member.content))


# --- read -------------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path, passphrase: bytes | None, beside: Path) -> Iterator[tuple[Manifest, Path]]:
    """What an archive lists, and a folder with its files, all checked, for as long as the block runs; the folder is
    private and lies in `beside`. Raises HostError."""
    try:
        with path.open("rb") as file, tempfile.TemporaryDirectory(dir=beside, prefix=".restore-") as folder:
            loose, files = Path(folder, "loose"), Path(folder, "files")
            loose.mkdir()
            files.mkdir()
            found = _found(path, _plain(path, file, passphrase, beside), loose)
            yield _in_place(path, found, files), files
    except OSError as why:
        raise HostError(f"{path} cannot be read: {why.strerror or why}") from why


def _plain(path: Path, file: IO[bytes], passphrase: bytes | None, beside: Path) -> IO[bytes]:
    if file.read(len(_MAGIC)) != _MAGIC:
        if passphrase is not None:
            raise HostError(
                f"{path} is not sealed: anybody who can write there may have made it; if it is yours and was made "
                "without a passphrase, leave --passphrase-file out"
            )
        file.seek(0)
        return file
    if passphrase is None:
        raise HostError(f"{path} is sealed; name the file with its passphrase: --passphrase-file FILE")
    plain = tempfile.TemporaryFile(dir=beside)  # noqa: SIM115 - it has no name, and ends with its last reader
    for piece in _unsealed(path, file, passphrase):
        plain.write(piece)
    plain.seek(0)
    return plain


@dataclass(frozen=True, slots=True)
class _Loose:
    """A file as it was found, not yet where it belongs."""

    place: Path
    sha256: str


class _Unzipped(gzip.GzipFile):
    """What a gzipped tar says, forward only and a little at a time: whatever its headers claim, none fills memory."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _AT_ONCE:
            raise tarfile.ReadError("it has a header larger than any that is written")
        return super().read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        is_tell = (offset, whence) == (0, io.SEEK_CUR)  # `tell` asks so
        if not is_tell and (whence != io.SEEK_SET or offset < self.tell()):
            raise tarfile.ReadError("it leads back to where it was read already")
        return super().seek(offset, whence)


def _found(path: Path, plain: IO[bytes], loose: Path) -> dict[str, _Loose]:
    """Every file of the archive by its name, put into `loose` under a number. Raises HostError."""
    found: dict[str, _Loose] = {}
    room = _Room(path)
    try:
        with _Unzipped(fileobj=plain) as unzipped, tarfile.open(fileobj=unzipped, mode="r:") as tar:
            for each in tar:
                room.take(each.name, each.size)
                file = tar.extractfile(each) if each.isreg() else None
                if file is not None and not _leads_out(each.name):
                    place = loose / str(room.files)
                    found[each.name] = _Loose(place, _copied(file, place))
            _check_end(unzipped)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RecursionError) as why:
        raise _no_backup(path, why) from why
    return found


def _check_end(unzipped: _Unzipped) -> None:
    """Raise ReadError or BadGzipFile where more follows than a tar's filling: what seems to be its end may be a damaged
    header, and gzip's checksum is only looked at by who reads on."""
    filling = 0
    while piece := unzipped.read(_AT_ONCE):
        filling += len(piece)
        if filling > tarfile.RECORDSIZE or any(piece):
            raise tarfile.ReadError("something follows its end")


def _copied(file: IO[bytes], place: Path) -> str:
    """The digest of what was copied."""
    digest = hashlib.sha256()
    with place.open("xb") as out:
        while piece := file.read(_AT_ONCE):
            digest.update(piece)
            out.write(piece)
    return digest.hexdigest()


def _in_place(path: Path, found: dict[str, _Loose], folder: Path) -> Manifest:
    """Every file of the manifest below `folder`, as it was packed. Nothing else is there. Raises HostError."""
    manifest = _manifest(path, found.pop(_MANIFEST, None))
    for name, listed in manifest.files.items():
        loose = found.get(name)
        if loose is None or loose.sha256 != listed.sha256:
            raise HostError(f"{path} is damaged: {name} is not what was kept; take another backup")
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        loose.place.replace(place)
    return manifest


def _manifest(path: Path, loose: _Loose | None) -> Manifest:
    if loose is not None and loose.place.stat().st_size > _LARGEST_MANIFEST:
        raise HostError(f"{path} is no backup of `ollamactl backup`: what it lists has no end")
    try:
        manifest = _MANIFESTS.validate_json(b"" if loose is None else loose.place.read_bytes())
    except ValidationError as why:
        raise _no_backup(path, why) from why
    if manifest.format != FORMAT:
        raise HostError(
            f"{path} was made by ollamactl {manifest.program} in form {manifest.format}; this one knows form {FORMAT}: "
            "restore it with that version"
        )
    return manifest


def _no_backup(path: Path, why: Exception) -> HostError:
    return HostError(f"{path} is no whole backup of `ollamactl backup`: {_first_line(why)}")


def _leads_out(name: str) -> bool:
    """Whether it may be another place than the one below the folder that it seems to be: `config//etc` is `/etc` to
    whoever takes the first part off."""
    plain = PurePosixPath(name)
    return name in ("", ".") or name.startswith("/") or name != plain.as_posix() or ".." in plain.parts


def _first_line(why: Exception) -> str:
    return (str(why).splitlines() or [type(why).__name__])[0]


# --- sealed -----------------------------------------------------------------------------------------------------------


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def _sealed(plain: IO[bytes], passphrase: bytes) -> Iterator[bytes]:
    salt, prefix = os.urandom(_SALT), os.urandom(_PREFIX)
    cipher = _cipher(passphrase, salt)
    yield _MAGIC + salt + prefix
    number, piece = 0, plain.read(_PIECE)
    while True:
        following = plain.read(_PIECE)
        yield cipher.encrypt(_nonce(prefix, number, is_last=not following), piece, None)
        if not following:
            return
        number, piece = number + 1, following


def _unsealed(path: Path, file: IO[bytes], passphrase: bytes) -> Iterator[bytes]:
    salt, prefix = file.read(_SALT), file.read(_PREFIX)
    cipher = _cipher(passphrase, salt)
    number, piece = 0, file.read(_PIECE + _TAG)
    while True:
        following = file.read(_PIECE + _TAG)
        try:
            yield cipher.decrypt(_nonce(prefix, number, is_last=not following), piece, None)
        except (InvalidTag, ValueError) as why:
            raise HostError(f"{path} does not open: another passphrase sealed it, or it is damaged") from why
        if not following:
            return
        number, piece = number + 1, following


def _cipher(passphrase: bytes, salt: bytes) -> AESGCM:
    return AESGCM(Scrypt(salt=salt, length=32, **_SCRYPT).derive(passphrase))


def _nonce(prefix: bytes, number: int, *, is_last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes((is_last,))
