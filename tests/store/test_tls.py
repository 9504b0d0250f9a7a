"""Redis over TLS: its certificate is verified always, and ours is shown where it asks for one."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from orchestrator.store.connection import Connection
from tests.store.conftest import DEBIAN_REDIS
from tests.store.playing import free_port
from tests.waiting import until, wait_until


@dataclass(frozen=True, slots=True)
class Secured:
    """A Redis that takes TLS alone, with a certificate for `localhost` and only from who has one of the same CA."""

    port: int
    ca: Path
    cert: Path
    key: Path

    def url(self, host: str = "localhost", **files: Path | str) -> str:
        query = "&".join(f"{name}={path}" for name, path in files.items())
        return f"rediss://{host}:{self.port}?{query}"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    if not DEBIAN_REDIS.exists():
        pytest.skip(f"{DEBIAN_REDIS} is not there (apt-get install redis-server); the embedded one has no TLS")
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    ca, cert, key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    authority.cert_pem.write_to_path(str(ca))
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    port = free_port()
    options = {"port": 0, "tls-port": port, "tls-ca-cert-file": ca, "tls-cert-file": cert, "tls-key-file": key}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen(
        [str(DEBIAN_REDIS), *words, "--save", "", "--dir", str(folder)], stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: listens(port) or process.poll() is not None, "the server answers")
        assert process.poll() is None, "the server ended at once"
        yield Secured(port, ca, cert, key)
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


async def refusal(url: str) -> str:
    """Why it does not come up."""
    connection = Connection(url)
    try:
        await connection.open(0)
        await until(lambda: connection.has_failed)
        return connection.problem
    finally:
        await connection.close()


async def test_with_its_authority_and_a_certificate_of_ours_all_is_as_without_tls(secured: Secured) -> None:
    connection = Connection(secured.url(ca=secured.ca, cert=secured.cert, key=secured.key))
    try:
        await connection.open(20)
        await connection.command("SET", "olm:secret", b"x" * 100_000)
        assert await connection.command("GET", "olm:secret") == b"x" * 100_000
    finally:
        await connection.close()


async def test_a_certificate_of_nobody_we_trust_is_refused(secured: Secured) -> None:
    assert "certificate verify failed" in await refusal(secured.url(cert=secured.cert, key=secured.key))


async def test_a_certificate_for_another_name_is_refused(secured: Secured) -> None:
    why = await refusal(secured.url("127.0.0.1", ca=secured.ca, cert=secured.cert, key=secured.key))
    assert "certificate verify failed" in why


async def test_who_has_no_certificate_is_not_let_in(secured: Secured) -> None:
    assert "does not answer" in await refusal(secured.url(ca=secured.ca))


async def test_files_that_cannot_be_read_are_named(secured: Secured, tmp_path: Path) -> None:
    assert str(tmp_path / "none.pem") in await refusal(secured.url(ca=tmp_path / "none.pem"))


async def test_files_that_were_renewed_are_read_again(secured: Secured, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    url = secured.url(ca=ca, cert=secured.cert, key=secured.key)
    assert "certificate verify failed" in await refusal(url)
    ca.write_bytes(secured.ca.read_bytes())
    connection = Connection(url)
    try:
        await connection.open(20)
    finally:
        await connection.close()
