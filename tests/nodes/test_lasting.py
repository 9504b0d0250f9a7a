"""How long certificates last: read from files and from what servers show, and told as metrics while it is known."""

from __future__ import annotations

import math
import socket
import time
from datetime import datetime
from pathlib import Path

import trustme

from orchestrator import telemetry
from orchestrator.app.authority import authorities_of, keep_client
from orchestrator.app.lasting import EndGauges, of_files, of_servers
from orchestrator.app.paths import StatePaths
from orchestrator.app.speaking_tls import papers_of
from orchestrator.core.certificates import LIFE_DAYS, Lasting
from orchestrator.nodes.authority import YEARS
from orchestrator.nodes.tls import Contexts, Papers
from orchestrator.settings import ClusterSettings
from tests.tls_front import expired, files_of, fronts, with_an_odd_version

DAY_S = 86_400
ENDED = int(datetime(2001, 1, 1).astimezone().timestamp())


def days(each: Lasting) -> float | None:
    return None if each.until_unix_s is None else round((each.until_unix_s - time.time()) / DAY_S)


def given(folder: Path, **papers: str) -> ClusterSettings:
    return ClusterSettings.model_validate({"instances": [{"url": "https://10.0.0.9:443", **papers}]})


def test_the_clusters_own_are_read_where_there_is_an_authority(tmp_path: Path) -> None:
    paths, settings = StatePaths(tmp_path), ClusterSettings()
    assert of_files(paths, settings) == []
    authority = authorities_of(paths, settings, makes=True)
    assert authority is not None
    keep_client(paths, authority)
    own, ours = of_files(paths, settings)
    assert (own.kind, own.whose, days(own)) == ("authority", "cluster", YEARS * 366)
    assert (ours.kind, ours.whose, days(ours)) == ("gateway", socket.gethostname(), LIFE_DAYS)
    paths.authority.write_bytes(b"damaged")
    (own,) = of_files(paths, settings)
    assert (own.until_unix_s, "damaged" in own.why) == (None, True)


def test_files_for_servers_of_others_are_read_and_one_that_cannot_be_is_named(tmp_path: Path) -> None:
    before, now = trustme.CA(), trustme.CA()
    both, leaf = tmp_path / "both.pem", files_of(expired(now, "gateway"), tmp_path, "gateway")
    both.write_bytes(before.cert_pem.bytes() + now.cert_pem.bytes())
    found = of_files(StatePaths(tmp_path), given(tmp_path, ca=str(both), **leaf))
    assert {each.kind: each.whose for each in found} == dict.fromkeys(("server-ca", "server-cert"), "10.0.0.9:443")
    assert next(each.until_unix_s for each in found if each.kind == "server-cert") == ENDED
    assert (days(found[0]) or 0) > 0
    both.write_text("nothing")
    assert of_files(StatePaths(tmp_path), given(tmp_path, ca=str(both)))[0].why == (
        f"{both}: there is no certificate in it"
    )
    both.write_text(with_an_odd_version(now.cert_pem.bytes().decode()))
    assert of_files(StatePaths(tmp_path), given(tmp_path, ca=str(both)))[0].why == (
        f"{both}: there is no certificate in it"
    )
    both.unlink()
    assert of_files(StatePaths(tmp_path), given(tmp_path, ca=str(both)))[0].why == f"{both}: No such file or directory"


async def test_what_a_server_shows_is_seen_whether_or_not_it_is_to_be_trusted(tmp_path: Path) -> None:
    ours, others = trustme.CA(), trustme.CA()
    shown = {"good": others.issue_cert("127.0.0.1"), "expired": expired(others, "127.0.0.1")}
    with fronts(1, shown, ours, tmp_path) as ports:
        there = [("127.0.0.1", port) for port in ports.values()]
        papers = Papers(**files_of(ours.issue_cert("gateway"), tmp_path, "gateway"))
        contexts = Contexts(None, lambda: dict.fromkeys(there, papers))
        asked = [("server", "127.0.0.1", each) for each in there]
        good, ended = await of_servers(contexts, asked)
        (host,) = await of_servers(contexts, [("host", "gpu-1", there[0])])
    assert (days(good) or 0) > 0
    assert ended == Lasting("server", f"127.0.0.1:{ports['expired']}", ENDED)
    assert host == Lasting("host", "gpu-1", good.until_unix_s)
    (gone,) = await of_servers(contexts, asked[:1])
    assert (gone.until_unix_s, bool(gone.why)) == (None, True)


async def test_a_certificate_that_cannot_be_read_hides_no_other_one(tmp_path: Path) -> None:
    ours, others = trustme.CA(), trustme.CA()
    good = others.issue_cert("127.0.0.1")
    pem = good.cert_chain_pems[0].bytes().decode()
    odd = trustme.LeafCert(good.private_key_pem.bytes(), with_an_odd_version(pem).encode(), [])
    with fronts(1, {"odd": odd, "good": good}, ours, tmp_path) as ports:
        asked = [("server", "127.0.0.1", ("127.0.0.1", port)) for port in ports.values()]
        papers = Papers(**files_of(ours.issue_cert("gateway"), tmp_path, "gateway"))
        contexts = Contexts(None, lambda: {address: papers for *_, address in asked})
        unread, read = await of_servers(contexts, asked)
    assert unread.until_unix_s is None
    assert unread.why.startswith("no certificate that can be read")
    assert (days(read) or 0) > 0


def value(kind: str, whose: str) -> float:
    (metric,) = telemetry.CERTIFICATE_END.collect()
    return next(each.value for each in metric.samples if each.labels == {"kind": kind, "whose": whose})


def test_what_is_not_known_any_more_is_no_number() -> None:
    gauges = EndGauges()
    gauges.tell([Lasting("host", "gpu-1", 7), Lasting("host", "gpu-2", 8), Lasting("host", "gpu-3", None, "gone")])
    assert (value("host", "gpu-1"), value("host", "gpu-2")) == (7, 8)
    gauges.tell([Lasting("host", "gpu-2", 9)])
    assert math.isnan(value("host", "gpu-1"))
    assert value("host", "gpu-2") == 9


def test_given_servers_are_known_by_their_addresses(tmp_path: Path) -> None:
    assert list(papers_of(given(tmp_path))) == [("10.0.0.9", 443)]
