"""A backup as one file: a gzipped tar with a manifest of checksums, sealed with a passphrase where there is one.

It knows the file's form and nothing of what is in it. Sealed it is AES-256-GCM in pieces, each bound to its place and
the last one to being the last (the STREAM construction, eprint 2015/189), under a key that scrypt makes of the
passphrase: what was changed, cut or put in another order does not open.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
import time
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

FORMAT: Final = 1
_MANIFEST: Final = "manifest.json"
_MAGIC: Final = b"OLLAMACTL-BACKUP-1\n"
_SALT, _PREFIX, _TAG, _PIECE = 16, 7, 16, 2**20
# Some 60 ms and 32 MiB a try (RFC 7914's n, r, p): a guess costs that much, too.
_SCRYPT: Final = {"n": 2**15, "r": 8, "p": 1}
SHORTEST_PASSPHRASE: Final = 12


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
            manifest = _pack(plain, members, about)
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
    except FileExistsError as why:
        raise HostError(f"{path} is there already; name another, or remove it") from why
    except OSError as why:
        raise HostError(f"{path} cannot be written: {why.strerror}") from why
    return manifest


def _pack(out: IO[bytes], members: Iterable[Member], about: Manifest) -> Manifest:
    files: dict[str, Listed] = {}
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for each in members:
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
            plain = _plain(path, file, passphrase, beside)
            yield _unpacked(path, plain, Path(folder)), Path(folder)
    except OSError as why:
        raise HostError(f"{path} cannot be read: {why.strerror or why}") from why


def _plain(path: Path, file: IO[bytes], passphrase: bytes | None, beside: Path) -> IO[bytes]:
    if file.read(len(_MAGIC)) != _MAGIC:
        file.seek(0)
        return file
    if passphrase is None:
        raise HostError(f"{path} is sealed; name the file with its passphrase: --passphrase-file FILE")
    plain = tempfile.TemporaryFile(dir=beside)  # noqa: SIM115 - it has no name, and ends with its last reader
    for piece in _unsealed(path, file, passphrase):
        plain.write(piece)
    plain.seek(0)
    return plain


def _unpacked(path: Path, plain: IO[bytes], folder: Path) -> Manifest:
    """Every file of the manifest below `folder`, as it was packed. Nothing else is written there."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=plain, mode="r:gz") as tar:
            for each in tar:
                file = tar.extractfile(each) if each.isreg() else None
                if file is not None and not _leads_out(each.name):
                    found[each.name] = file.read()
        manifest = _MANIFESTS.validate_json(found.pop(_MANIFEST, b""))
    except (tarfile.TarError, EOFError, ValidationError) as why:
        raise HostError(f"{path} is no whole backup of `ollamactl backup`: {_first_line(why)}") from why
    if manifest.format != FORMAT:
        raise HostError(
            f"{path} was made by ollamactl {manifest.program} in form {manifest.format}; this one knows form {FORMAT}: "
            "restore it with that version"
        )
    for name, listed in manifest.files.items():
        content = found.get(name)
        if content is None or hashlib.sha256(content).hexdigest() != listed.sha256:
            raise HostError(f"{path} is damaged: {name} is not what was kept; take another backup")
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return manifest


def _leads_out(name: str) -> bool:
    return name.startswith("/") or ".." in PurePosixPath(name).parts


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
