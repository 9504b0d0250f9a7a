"""Archives of Ollama's program: what is in one, checked member by member, and taken out.

Nothing is believed of a name in an archive: what would come to lie outside of the folder, or be reached through a link,
is refused, and so is everything but files, folders and links.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

PROGRAM = "bin/ollama"
CHUNK_BYTES = 2**20
SYNC_BYTES = 2**26  # written out from time to time: all at the end a slow disk would be silent for minutes


class UnfitArchive(Exception):
    """The archive is not what it should be; the text says what is wrong with it."""


def size_of(path: Path) -> int:
    """Bytes of everything in it. Raises UnfitArchive, also where there is no program in it."""
    total, has_program = 0, False
    with _opened(path) as archive:
        for place, member in _checked(archive):
            total += member.size
            has_program = has_program or (place == PROGRAM and not member.isdir())
    if not has_program:
        raise UnfitArchive(f"there is no {PROGRAM} in it: name an archive of an Ollama release for Linux")
    return total


def take_out(path: Path, folder: Path, beat: Callable[[str], None]) -> None:
    """Everything in it into the empty `folder`, on the disk. Raises UnfitArchive and OSError."""
    with _opened(path) as archive:
        for place, member in _checked(archive):
            to = folder / place
            to.parent.mkdir(parents=True, exist_ok=True)
            _take(archive, member, to, folder, beat)


def _take(
    archive: tarfile.TarFile, member: tarfile.TarInfo, to: Path, folder: Path, beat: Callable[[str], None]
) -> None:
    if member.isdir():
        to.mkdir(exist_ok=True)
    elif member.issym():
        to.symlink_to(member.linkname)
    elif member.islnk():
        os.link(str(folder / _place(member.linkname)), str(to))
    else:
        content = archive.extractfile(member)
        assert content is not None
        mode = 0o755 if member.mode & 0o111 else 0o644
        with os.fdopen(os.open(str(to), os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
            left = member.size
            while left:
                chunk = content.read(min(left, CHUNK_BYTES))
                if not chunk:
                    raise UnfitArchive(f"{member.name!r} in it ends too early")
                file.write(chunk)
                left -= len(chunk)
                if left % SYNC_BYTES < CHUNK_BYTES:
                    to_disk(file)
                beat(to.name)
            to_disk(file)


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """A .tar.gz, to be read once from its beginning to its end; what is wrong with it is an UnfitArchive."""
    try:
        with tarfile.open(str(path), "r|gz") as archive:
            yield archive
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise UnfitArchive(f"is no whole archive ({error})") from error
    except OSError as error:
        if error.errno is not None:  # the disk's; those of gzip have no number
            raise
        raise UnfitArchive(f"is no whole archive ({error})") from error


def to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _checked(archive: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Each member with its place in the folder."""
    files: set[str] = set()
    links: set[str] = set()
    ways: list[tuple[str, list[str]]] = []  # of each link, the folders that it leads through
    for member in archive:
        place = _place(member.name)
        if not place:
            continue
        if any(place == each or place.startswith(f"{each}/") for each in links) or place in files:
            raise UnfitArchive(f"{member.name!r} in it would be written through or over another member")
        if member.issym():
            _check_link(member, place)
            links.add(place)
            ways.append((member.name, _through(member.linkname, posixpath.dirname(place))))
        elif member.islnk() and _place(member.linkname) not in files:
            raise UnfitArchive(f"{member.name!r} in it is a link to what is not in it")
        elif not member.isdir():
            files.add(place)
        if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
            raise UnfitArchive(f"{member.name!r} in it is neither file nor folder nor link")
        yield place, member
    for name, through in ways:
        if not links.isdisjoint(through):
            raise UnfitArchive(f"the link {name!r} in it leads through another link")


def _place(name: str) -> str:
    parts = [each for each in name.split("/") if each not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise UnfitArchive(f"{name!r} in it would lie outside of its folder")
    return "/".join(parts)


def _through(to: str, folder: str) -> list[str]:
    """The folders that a link there passes on its way: were one a link itself, `..` behind it would lead elsewhere."""
    parts = [each for each in to.split("/") if each not in ("", ".")]
    return [posixpath.normpath(posixpath.join(folder, *parts[:count])) for count in range(1, len(parts))]


def _check_link(member: tarfile.TarInfo, place: str) -> None:
    to = posixpath.normpath(posixpath.join(posixpath.dirname(place), member.linkname))
    if member.linkname.startswith("/") or to == ".." or to.startswith("../"):
        raise UnfitArchive(f"the link {member.name!r} in it leads outside of its folder")
