"""Ollama's program before it is sent: found, downloaded once, checked, and made fit for a host to unpack."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import ssl
import subprocess
import tarfile
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp.web
import pytest
import zstandard

from orchestrator.core.errors import HostError
from orchestrator.nodes.onhost.archive import UnfitArchive, size_of, take_out
from orchestrator.nodes.program_file import program

PROGRAM = b"\x7fELF and so on"
USUAL = {"bin/ollama": PROGRAM, "lib/ollama/libggml.so.1": b"library"}


def packed(members=USUAL, *others: tarfile.TarInfo, mode: str = "w:gz") -> bytes:
    """An archive of files, and of members that are something else."""
    to = io.BytesIO()
    with tarfile.open(fileobj=to, mode=mode) as archive:
        for name, content in members.items():
            archive.addfile(of(name, size=len(content), mode=0o4755), io.BytesIO(content))
        for each in others:
            archive.addfile(each)
    return to.getvalue()


def of(name: str, **fields) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def ready(tmp_path: Path, content: bytes, sha256: str | None = None):
    path = tmp_path / "ollama-linux"
    path.write_bytes(content)
    return await (await program(str(path), sha256, tmp_path / "cache")).ready()


async def test_a_program_itself_is_sent_as_it_is(tmp_path):
    file = await ready(tmp_path, PROGRAM, digest(PROGRAM))
    assert (file.path, file.sha256, file.is_archive) == (tmp_path / "ollama-linux", digest(PROGRAM), False)
    assert file.size_bytes == file.unpacked_bytes == len(PROGRAM)


async def test_a_file_with_another_digest_than_the_settings_say_is_refused_with_both(tmp_path):
    with pytest.raises(
        HostError, match=rf"^deploy.sha256: \S+ is another file: its sha256 is {digest(PROGRAM)}, not 0+$"
    ):
        await ready(tmp_path, PROGRAM, "0" * 64)


async def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(HostError, match=r"^deploy.ollama: no such file: /nowhere/ollama$"):
        await program("/nowhere/ollama", None, tmp_path)


@pytest.mark.parametrize("form", ["gzip", "zstd", "tar"])
async def test_archives_become_what_a_hosts_python_unpacks_and_keep_their_digest_as_a_name(tmp_path, form):
    content = {
        "gzip": packed(),
        "zstd": zstandard.compress(packed(mode="w:")),
        "tar": packed(mode="w:"),
    }[form]
    path = tmp_path / "ollama-linux"
    path.write_bytes(content)
    wanted = await program(str(path), None, tmp_path / "cache")
    file = await wanted.ready()
    assert wanted.digest == digest(content)
    assert file.sha256 == digest(file.path.read_bytes())
    assert file.unpacked_bytes == len(PROGRAM) + len(b"library")
    to = tmp_path / "out"
    to.mkdir()
    take_out(file.path, to, lambda name: None)
    assert (to / "bin/ollama").read_bytes() == PROGRAM
    assert (to / "bin/ollama").stat().st_mode & 0o7777 == 0o755  # what it had beyond is gone
    assert {each.name for each in (tmp_path / "cache").iterdir()} <= {
        f"{wanted.digest}.json",
        f"{wanted.digest}.tar.gz",
    }


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"PK\x03\x04 whatever", "is zip; name a program, a .tar.gz or a .tar.zst of it"),
        (b"!<arch>\ndebian-binary", "is a Debian package; name a program"),
        (b"some text", "is neither program nor archive; name a program"),
        (packed()[:-60], "is no whole archive"),
        (packed({"ollama": PROGRAM}), "there is no bin/ollama in it"),
        (zstandard.compress(packed(mode="w:"))[:-20], "is no whole archive"),
    ],
)
async def test_what_is_no_program_and_no_archive_of_one_is_told(tmp_path, content, why):
    with pytest.raises(HostError, match=why) as refused:
        await ready(tmp_path, content)
    assert str(refused.value).startswith(f"deploy.ollama: {tmp_path}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (packed({**USUAL, "../evil": b"x"}), "'../evil' in it would lie outside"),
        (packed({**USUAL, "/etc/evil": b"x"}), "'/etc/evil' in it would lie outside"),
        (packed({**USUAL, "lib/../../evil": b"x"}), "would lie outside"),
        (packed(USUAL, of("lib/out", type=tarfile.SYMTYPE, linkname="../../etc")), "'lib/out' in it leads outside"),
        (packed(USUAL, of("out", type=tarfile.SYMTYPE, linkname="/etc")), "'out' in it leads outside"),
        (
            packed(USUAL, of("hard", type=tarfile.LNKTYPE, linkname="etc/passwd")),
            "'hard' in it is a link to what is not",
        ),
        (packed(USUAL, of("null", type=tarfile.CHRTYPE)), "'null' in it is neither file nor folder nor link"),
        (packed(USUAL, of("bin/ollama", type=tarfile.SYMTYPE, linkname="sh")), "written through or over another"),
        (
            packed(USUAL, of("in", type=tarfile.SYMTYPE, linkname="lib"), of("in/x", type=tarfile.DIRTYPE)),
            "'in/x' in it would be written through or over another member",
        ),
    ],
)
def test_members_that_would_leave_their_folder_are_refused_and_nothing_lies_outside(tmp_path, archive, why):
    path = tmp_path / "archive"
    path.write_bytes(archive)
    to = tmp_path / "within" / "out"
    to.mkdir(parents=True)
    for refuse in (lambda: size_of(path), lambda: take_out(path, to, lambda name: None)):
        with pytest.raises(UnfitArchive, match=why):
            refuse()
    assert {each.name for each in tmp_path.iterdir()} == {"archive", "within"}
    assert [each.name for each in (tmp_path / "within").iterdir()] == ["out"]


def test_links_within_an_archive_are_kept(tmp_path):
    path = tmp_path / "archive"
    soft = of("lib/ollama/libggml.so", type=tarfile.SYMTYPE, linkname="libggml.so.1")
    hard = of("bin/again", type=tarfile.LNKTYPE, linkname="./bin/ollama")
    path.write_bytes(packed({f"./{name}": content for name, content in USUAL.items()}, soft, hard))
    to = tmp_path / "out"
    to.mkdir()
    take_out(path, to, lambda name: None)
    assert (to / "lib/ollama/libggml.so").read_bytes() == b"library"
    assert (to / "bin/again").read_bytes() == PROGRAM


@asynccontextmanager
async def https_server(tmp_path: Path, content: bytes, status: int = 200):
    """A server with a certificate that the context beside its URL trusts; each request it answers is counted."""
    asked = []

    async def answer(request):
        asked.append(request.path)
        return aiohttp.web.Response(body=content, status=status)

    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    make += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"]
    subprocess.run([*make, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(certificate, key)
    app = aiohttp.web.Application()
    app.router.add_get("/{file}", answer)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ours)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"https://localhost:{port}/ollama.tgz", ssl.create_default_context(cafile=str(certificate)), asked
    finally:
        await runner.cleanup()


async def test_a_url_is_downloaded_once_for_everybody_and_only_when_it_is_needed(tmp_path):
    content, cache = packed(), tmp_path / "cache"
    async with https_server(tmp_path, content) as (url, tls, asked):
        wanted = await program(url, digest(content), cache, tls)
        assert (wanted.digest, asked) == (digest(content), [])
        other = await program(url, digest(content), cache, tls)  # as another process would
        files = await asyncio.gather(*(each.ready() for each in (wanted, wanted, other)))
        assert len(asked) == 1
    assert {each.sha256 for each in files} == {digest(content)}
    assert (await (await program(url, digest(content), cache)).ready()) == files[0]  # its server is gone


async def test_a_download_that_is_another_file_is_refused_and_not_kept(tmp_path):
    cache = tmp_path / "cache"
    async with https_server(tmp_path, b"something else") as (url, tls, _):
        wanted = await program(url, digest(PROGRAM), cache, tls)
        with pytest.raises(
            HostError, match=r"^deploy.sha256: what https://\S+ leads to is another file: its sha256 is"
        ):
            await wanted.ready()
    assert [each.suffix for each in cache.iterdir()] == [".lock"]


async def test_a_server_that_has_it_not_or_is_not_there_is_told(tmp_path):
    async with https_server(tmp_path, b"", status=404) as (url, tls, _):
        with pytest.raises(HostError, match=r"^deploy.ollama: https://\S+ answers 404 Not Found$"):
            await (await program(url, digest(PROGRAM), tmp_path / "cache", tls)).ready()
        with pytest.raises(HostError, match=r"^deploy.ollama: https://\S+ cannot be downloaded: .*certificate"):
            await (await program(url, digest(PROGRAM), tmp_path / "cache")).ready()
    with pytest.raises(HostError, match=r"^deploy.ollama: https://\S+ cannot be downloaded: "):
        await (await program(url, digest(PROGRAM), tmp_path / "cache", tls)).ready()


async def test_of_programs_that_nobody_wants_any_more_the_bytes_are_forgotten(tmp_path):
    cache = tmp_path / "cache"
    names = []
    for version in range(5):
        content = packed({"bin/ollama": PROGRAM + bytes([version])}, mode="w:")
        names.append(digest(content))
        await ready(tmp_path, content)
        os.utime(cache / f"{names[-1]}.json", (version, version))
    assert {each.name.partition(".")[0] for each in cache.iterdir()} == set(names[-3:])


async def test_a_program_that_lies_elsewhere_by_now_is_sent_from_there(tmp_path):
    content = packed()  # once: gzip's head has the second in it
    before = await ready(tmp_path, content)
    before.path.write_bytes(b"another program")
    moved = tmp_path / "moved"
    moved.write_bytes(content)
    file = await (await program(str(moved), None, tmp_path / "cache")).ready()
    assert (file.path, file.sha256) == (moved, before.sha256)
