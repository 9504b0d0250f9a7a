"""TLS ended before servers in clear by stunnel, as somebody's proxy does: one process, a port for each certificate."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import pytest
import trustme

from tests.nodes.simulators import free_port
from tests.waiting import WITHIN_S

STUNNEL = shutil.which("stunnel4") or shutil.which("stunnel")
UP_S = WITHIN_S


@contextmanager
def fronts(
    to: int, shown: Mapping[str, trustme.LeafCert], clients: trustme.CA, folder: Path
) -> Iterator[dict[str, int]]:
    """Ports of 127.0.0.1 by name, where the certificate of that name is shown and one of `clients` is wanted."""
    if STUNNEL is None:
        pytest.skip("there is no stunnel; tests/system_packages.sh installs stunnel4")
    trusted = folder / "clients.pem"
    clients.cert_pem.write_to_path(str(trusted))
    lines, ports = ["foreground = yes", "syslog = no", "pid =", "debug = warning"], {}
    for name, leaf in shown.items():
        files, ports[name] = files_of(leaf, folder, f"front-{name}"), free_port()
        lines += [f"[{name}]", f"accept = 127.0.0.1:{ports[name]}", f"connect = 127.0.0.1:{to}"]
        lines += [f"cert = {files['cert']}", f"key = {files['key']}", f"CAfile = {trusted}", "verifyChain = yes"]
    config = folder / "fronts.conf"
    config.write_text("\n".join(lines) + "\n")
    with (folder / "fronts.log").open("wb") as log, subprocess.Popen([STUNNEL, str(config)], stderr=log) as process:
        try:
            for port in ports.values():
                _wait_for(port, process)
            yield ports
        finally:
            process.terminate()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + UP_S
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        assert process.poll() is None, "stunnel ended at once"
        assert time.monotonic() < deadline_s, "stunnel does not listen"
        time.sleep(0.02)  # between two looks at a condition


def files_of(leaf: trustme.LeafCert, folder: Path, name: str) -> dict[str, str]:
    """`cert` and `key` of it, as files in `folder`."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(leaf.cert_chain_pems[0].bytes())
    key.write_bytes(leaf.private_key_pem.bytes())
    key.chmod(0o600)
    return {"cert": str(cert), "key": str(key)}


def expired(authority: trustme.CA, name: str) -> trustme.LeafCert:
    """One that was good until 2001."""
    return authority.issue_cert(name, not_after=datetime(2001, 1, 1))


def certificate_in(pem: str) -> str:
    """Of a key and its certificate, the certificate."""
    return pem[pem.index("-----BEGIN CERTIFICATE-----") :]


def with_an_odd_version(pem: str) -> str:
    """This certificate as one of version 8, said as 7; there are three."""
    return _edited(pem, "a003020102", "a003020107")


def with_a_doubled_extension(pem: str) -> str:
    """This certificate with its basic constraints called a key usage, of which it has one."""
    return _edited(pem, "0603551d13", "0603551d0f")


def with_an_unknown_kind_of_name(pem: str, name: str) -> str:
    """This certificate with a DNS name of its called the party of an electronic data interchange."""
    was = bytes([len(name)]).hex() + name.encode().hex()
    return _edited(pem, "82" + was, "a5" + was)


def _edited(pem: str, was: str, now: str) -> str:
    """Its signature is not good for that. Lengths stay."""
    der = ssl.PEM_cert_to_DER_cert(pem)
    assert bytes.fromhex(was) in der
    return ssl.DER_cert_to_PEM_cert(der.replace(bytes.fromhex(was), bytes.fromhex(now)))
