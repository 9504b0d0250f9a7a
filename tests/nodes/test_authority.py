"""The cluster's own authority: what it signs is taken by TLS for what it was made for, and for nothing else."""

from __future__ import annotations

import itertools
import ssl
import time
from pathlib import Path

import pytest

from orchestrator.core.certificates import life_at
from orchestrator.nodes.authorities import Authorities
from orchestrator.nodes.authority import Authority, ends_in, held_in, read_certificate
from orchestrator.nodes.tls import Contexts, Papers
from tests.tls_front import (
    certificate_in,
    with_a_doubled_extension,
    with_an_odd_version,
    with_an_unknown_kind_of_name,
)

NOW = int(time.time())


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority(Authority.made(NOW))


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> str:
    """Both sides in memory; what one of them complains of, '' where they agree."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for each in sides:
            try:
                each.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as why:
                return getattr(why, "verify_message", "") or why.reason
    return ""


def shows(pem: str, folder: Path, authority: Authority | None = None) -> ssl.SSLContext:
    """A server with this certificate, which wants one of `authority`."""
    file = folder / "server.pem"
    file.write_text(pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    if authority is not None:
        context.load_verify_locations(cadata=authority.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def own(pem: str, folder: Path) -> ssl.SSLContext:
    file = folder / "client.pem"
    file.write_text(pem)
    return Contexts(file).of("10.0.0.7", 11500)


def test_a_host_and_a_gateway_of_one_authority_trust_each_other(authority: Authority, tmp_path: Path) -> None:
    server = shows(authority.for_host(["gpu-1", "10.0.0.7"], NOW), tmp_path, authority)
    client = own(authority.for_client("gw-1", NOW), tmp_path)
    assert handshake(client, server, "gpu-1") == ""
    assert handshake(client, server, "10.0.0.7") == ""
    assert "mismatch" in handshake(client, server, "gpu-2")


def test_another_authority_is_not_trusted_by_either_side(authority: Authority, tmp_path: Path) -> None:
    other = Authority(Authority.made(NOW))
    client = own(authority.for_client("gw-1", NOW), tmp_path)
    assert handshake(client, shows(other.for_host(["gpu-1"], NOW), tmp_path, authority), "gpu-1")
    stranger = own(other.for_client("gw-1", NOW) + authority.certificate, tmp_path)
    server = shows(authority.for_host(["gpu-1"], NOW), tmp_path, authority)
    assert "self-signed certificate" in handshake(stranger, server, "gpu-1")


def test_what_a_host_shows_opens_no_other_host(authority: Authority, tmp_path: Path) -> None:
    taken = own(authority.for_host(["gpu-2"], NOW) + authority.certificate, tmp_path)
    server = shows(authority.for_host(["gpu-1"], NOW), tmp_path, authority)
    assert "purpose" in handshake(taken, server, "gpu-1")


def test_a_certificate_says_whose_it_is_and_for_how_long(authority: Authority) -> None:
    read = read_certificate(authority.for_host(["gpu-1", "10.0.0.7", "gpu-1"], NOW))
    assert read is not None
    assert (read.authority, read.names) == (authority.id, {"gpu-1", "10.0.0.7"})
    assert (read.since_unix_s, read.until_unix_s) == life_at(NOW)
    assert read_certificate("") is None
    assert read_certificate("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") is None


def test_a_certificate_that_says_what_none_may_say_is_none_that_can_be_read(authority: Authority) -> None:
    shown = certificate_in(authority.for_host(["gpu-1"], NOW))
    odd, doubled = with_an_odd_version(shown), with_a_doubled_extension(shown)
    for spoilt in (odd, doubled, with_an_unknown_kind_of_name(shown, "gpu-1")):
        assert read_certificate(spoilt) is None
    for spoilt in (odd, doubled):
        assert held_in(spoilt + authority.certificate) is None
    assert held_in(shown + with_an_odd_version(authority.certificate)) is None
    assert held_in(shown + with_a_doubled_extension(authority.certificate)) is None
    with pytest.raises(ValueError, match="no certificate that can be read: 7 is not"):
        ends_in(odd.encode())


def test_a_renewed_file_is_taken_by_the_next_connection_and_a_missing_one_is_named(tmp_path: Path) -> None:
    first, second = Authority(Authority.made(NOW)), Authority(Authority.made(NOW))
    file = tmp_path / "client.pem"
    contexts = Contexts(file)
    with pytest.raises(OSError, match=r"no certificates can be read from .*client\.pem"):
        contexts.of("gpu-1", 1)
    file.write_text(first.for_client("gw-1", NOW))
    before = contexts.of("gpu-1", 1)
    assert contexts.of("gpu-1", 2) is before, "made once"
    file.write_text(second.for_client("gw-1", NOW))
    assert contexts.of("gpu-1", 1) is not before


def test_servers_of_others_are_asked_with_their_own_papers(authority: Authority, tmp_path: Path) -> None:
    trusted = tmp_path / "ca.pem"
    trusted.write_text(authority.certificate)
    contexts = Contexts(None, lambda: {("gpu-1", 443): Papers(ca=str(trusted))})
    assert len(contexts.of("gpu-1", 443).get_ca_certs()) == 1
    assert contexts.of("gpu-2", 443) is not contexts.of("gpu-1", 443)


# --- another one in its place -----------------------------------------------------------------------------------------


def steps() -> list[Authorities]:
    """One alone, both with the old one signing, both with the new one, the new one alone, and that is over."""
    first = Authorities.made(NOW)
    begun = first.begun(NOW)
    return [first, begun, begun.followed(), begun.followed().followed(), begun.followed().followed().followed()]


def test_it_is_kept_and_read_again_at_every_step_and_the_old_key_goes_with_the_second() -> None:
    for each in steps():
        read = Authorities.parse(each.pem)
        assert (read.pem, read.held, read.trusted) == (each.pem, each.held, each.trusted)
        assert (read.coming is None, read.going, read.is_left) == (each.coming is None, each.going, each.is_left)
    assert [each.pem.count(b"PRIVATE KEY") // 2 for each in steps()] == [1, 2, 1, 1, 1]
    assert [each.is_settled for each in steps()] == [True, False, False, False, True]
    assert Authorities.parse(Authority.made(NOW)).is_settled, "as it was kept before there were steps"
    with pytest.raises(ValueError, match="0 certificates"):
        Authorities.parse(b"")


def test_each_side_is_trusted_by_the_other_though_one_is_a_step_behind(tmp_path: Path) -> None:
    every = steps()
    for before, after in itertools.pairwise(every):
        for ours, theirs in ((before, after), (after, before), (after, after)):
            server = shows(theirs.signs.for_host(["gpu-1"], NOW), tmp_path)
            server.load_verify_locations(cadata=theirs.trusted)
            server.verify_mode = ssl.CERT_REQUIRED
            assert handshake(own(ours.for_client("gw-1", NOW), tmp_path), server, "gpu-1") == ""
    first, *_, last = every
    assert "self-signed" in handshake(
        own(first.for_client("gw-1", NOW), tmp_path),
        shows(last.signs.for_host(["gpu-1"], NOW), tmp_path, last.signs),
        "gpu-1",
    )


def test_what_one_has_is_told_by_its_certificate_and_those_that_it_trusts() -> None:
    for each in steps():
        assert held_in(each.for_client("gw-1", NOW)) == each.held
        assert held_in(each.signs.for_host(["gpu-1"], NOW) + each.trusted) == each.held
    every = steps()
    assert len({each.held.words for each in every}) == 4, "the last step asks for nothing more"
    assert held_in("") is None
