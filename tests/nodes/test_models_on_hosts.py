"""What runs on hosts while models are copied, without hosts: names that lead nowhere else, and a pace that is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.nodes.onhost.blobs import Trouble, blob_path, blobs_of, digest_of, manifest_path
from orchestrator.nodes.onhost.giving import Offers, Pace

BLOB = f"sha256-{'a' * 64}"


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "sha256-", BLOB + "/..", BLOB.upper(), f"{BLOB}\n", f"sha256:{'a' * 64}", "/etc/passwd"]
)
def test_only_a_digest_names_a_blob(name):
    with pytest.raises(Trouble):
        blob_path(Path("/models"), name)


@pytest.mark.parametrize(
    "parts",
    [
        ["registry.ollama.ai", "library", "x"],
        ["registry.ollama.ai", "library", "x", ".."],
        ["..", "..", "x", "latest"],
        ["registry.ollama.ai", "library", "x/../../y", "latest"],
        ["registry.ollama.ai", "library", "", "latest"],
        ["registry.ollama.ai", "library", "x", "latest\n"],
    ],
)
def test_a_models_name_leads_to_no_other_folder(parts):
    with pytest.raises(Trouble):
        manifest_path(Path("/models"), parts)


def test_a_manifest_of_another_registry_has_a_place():
    path = manifest_path(Path("/models"), ["hub.example:5000", "me", "x", "8b-q4_K_M"])
    assert path == Path("/models/manifests/hub.example:5000/me/x/8b-q4_K_M")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"layers": [{}], "config": {}}', b'{"layers": 1, "config": 2}']
)
def test_what_is_no_manifest_is_refused(content):
    with pytest.raises(Trouble, match="its manifest is none that can be read"):
        blobs_of(content)


def test_a_token_opens_one_models_blobs_until_it_is_withdrawn(tmp_path):
    content = json.dumps({"layers": [], "config": {"digest": f"sha256:{digest_of(b'{}')}", "size": 2}}).encode()
    config = f"sha256-{digest_of(b'{}')}"
    parts = ["registry.ollama.ai", "library", "x", "latest"]
    place = manifest_path(tmp_path, parts)
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    offers = Offers(tmp_path)
    with pytest.raises(Trouble, match="No such file"):
        offers.add("token", parts, digest_of(content))
    blob_path(tmp_path, config).parent.mkdir()
    blob_path(tmp_path, config).write_bytes(b"{")
    with pytest.raises(Trouble, match="has 1 of 2 bytes"):
        offers.add("token", parts, digest_of(content))
    blob_path(tmp_path, config).write_bytes(b"{}")
    with pytest.raises(Trouble, match="another version"):
        offers.add("token", parts, digest_of(b"older"))
    assert offers.add("token", parts, digest_of(content)) == {"manifest": content.decode(), "blobs": {config: 2}}
    assert offers.found("Bearer token", f"/{config}") == blob_path(tmp_path, config)
    assert offers.found("Bearer tokem", f"/{config}") is None
    assert offers.found("Bearer token", f"/{BLOB}") is None
    offers.withdraw("token")
    assert offers.found("Bearer token", f"/{config}") is None


def test_all_readers_together_get_what_is_allowed():
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    pace = Pace(1000.0, lambda: now[0], sleep)
    for _ in range(80):  # of whichever readers
        pace.wait(pace.piece_bytes)
    assert now[0] == pytest.approx(100 + 79 * 125 / 1000)
    now[0] += 50  # nobody read: what was not used is not made up for
    pace.wait(125)
    before = now[0]
    pace.wait(125)
    assert now[0] == pytest.approx(before + 0.125)
