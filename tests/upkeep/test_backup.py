"""A cluster is kept in one file, lost, and brought back out of it: what it counted, who may ask, what it was told."""

from __future__ import annotations

import gzip
import json
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from orchestrator.app import archive
from orchestrator.app.archive import Listed, Manifest, Member
from orchestrator.app.restoring import Asked, _copies
from orchestrator.core.errors import HostError
from tests.cluster.running import TIMEOUT_S, Up, needs_redis, ollamactl, processes_of, until
from tests.fleet.given_world import Played, model

MODEL = "llama3:8b"
SECRET = "a-secret-that-only-callers-know"
PASSPHRASE = b"twelve or more of them"


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    needs_redis()
    server = Played(tmp_path_factory.mktemp("played"), model(MODEL, slots=2)).start()
    yield server
    server.kill()


@pytest.fixture
def settings(tmp_path: Path, played: Played) -> Path:
    """A configuration with files of its own: a secret, curated answers, and one that lies elsewhere."""
    folder, elsewhere = tmp_path / "etc", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "operator.key").write_text(SECRET + "\n")
    (folder / "operator.key").chmod(0o600)
    (elsewhere / "faq.yaml").write_text('- questions: ["who are you"]\n  answer: "a cluster"\n  language: en\n')
    made = {
        "instances": [{"url": played.url, "slots": 2}],
        "keys": [{"name": "operator", "secret": "file:operator.key", "admin": True}],
        "cache": {"faq": [str(elsewhere / "faq.yaml")]},
    }
    (folder / "cluster.yaml").write_text(yaml.safe_dump({name: each for name, each in made.items() if each}))
    return folder / "cluster.yaml"


def asked(up: Up, times: int) -> None:
    for number in range(times):
        told = up.chat(f"question {number}", MODEL, Authorization=f"Bearer {SECRET}")
        assert told.status_code == 200, told.text


def counted(up: Up) -> dict[str, object]:
    """Calls and tokens of today, as the status has them."""
    reply = httpx.get(f"{up.endpoint}/status.json", headers={"Authorization": f"Bearer {SECRET}"}, timeout=TIMEOUT_S)
    assert reply.status_code == 200, reply.text
    told: dict[str, object] = reply.json()["usage"]
    return told


def test_what_was_lost_is_as_it_was_once_it_is_brought_back(tmp_path, settings):
    state, kept, phrase = tmp_path / "state", tmp_path / "kept.backup", tmp_path / "phrase"
    phrase.write_bytes(PASSPHRASE)
    sealed = ("--passphrase-file", phrase)
    up = Up(state, "--workers", "1", config=settings, command="gateway")
    try:
        up.wait_until_ready()
        asked(up, 3)
        until(lambda: "3" in json.dumps(counted(up)), "three calls are counted")
        before = counted(up)
        made = ollamactl("backup", kept, "--state", state, "--config", settings, *sealed, cwd=tmp_path)
        assert made.returncode == 0, made.stderr
        refused = ollamactl("restore", kept, "--state", state, *sealed, cwd=tmp_path)
        assert refused.returncode == 1
        assert "a cluster runs with --state" in refused.stderr
    finally:
        up.close()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert SECRET.encode() not in kept.read_bytes()

    digests = (state / "cache.key").read_bytes()
    shutil.rmtree(state)
    shutil.rmtree(settings.parent)
    there = tmp_path / "there"
    there.mkdir()
    brought = ollamactl("restore", kept, "--state", state, "--config-to", there, *sealed, cwd=tmp_path)
    assert brought.returncode == 0, brought.stderr
    assert not processes_of(state)
    assert (state / "cache.key").read_bytes() == digests
    assert (there / "operator.key").read_text() == SECRET + "\n"
    assert f"{there}/outside{tmp_path}/elsewhere/faq.yaml -> {tmp_path}/elsewhere/faq.yaml" in brought.stdout
    again = Up(state, "--workers", "1", config=there / "cluster.yaml", command="gateway")
    try:
        again.wait_until_ready()
        assert counted(again) == before
        assert again.chat("who are you", MODEL).status_code == 401
        asked(again, 1)
    finally:
        again.close()


def test_a_cluster_that_does_not_run_is_kept_too_and_nothing_is_written_over(tmp_path, settings):
    state, kept = tmp_path / "state", tmp_path / "kept.backup"
    (state / "deployments").mkdir(parents=True, mode=0o700)
    state.chmod(0o700)
    (state / "known_hosts").write_text("gpu-1 ssh-ed25519 AAAA\n")
    made = ollamactl("backup", kept, "--state", state, "--config", settings, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "holds secrets in clear" in made.stdout
    assert "is there already" in ollamactl("backup", kept, "--state", state, cwd=tmp_path).stderr
    there = tmp_path / "there"
    there.mkdir()
    (there / "cluster.yaml").write_text("models: {}\n")
    refused = ollamactl("restore", kept, "--state", tmp_path / "new", "--config-to", there, cwd=tmp_path)
    assert refused.returncode == 1
    assert f"there are other files in these places: {there}/cluster.yaml" in refused.stderr
    assert (there / "cluster.yaml").read_text() == "models: {}\n"
    assert not (tmp_path / "new" / "known_hosts").exists()
    (there / "cluster.yaml").unlink()
    shutil.copy(settings, there)  # a run that was interrupted had come so far
    brought = ollamactl("restore", kept, "--state", tmp_path / "new", "--config-to", there, cwd=tmp_path)
    assert brought.returncode == 0, brought.stderr
    assert (tmp_path / "new" / "known_hosts").read_text() == "gpu-1 ssh-ed25519 AAAA\n"


# --- the file ---------------------------------------------------------------------------------------------------------

ABOUT = Manifest(archive.FORMAT, "1.2.3", 0, "here", "/state", {})
MEMBERS = (Member("state/cache.key", b"k" * 32), Member("redis.json", b"x" * 3_000_000))


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_what_is_kept_is_what_comes_back(tmp_path, passphrase):
    kept = tmp_path / "kept"
    archive.write(kept, MEMBERS, ABOUT, passphrase)
    with archive.opened(kept, passphrase, tmp_path) as (manifest, folder):
        assert {name: (folder / name).read_bytes() for name in manifest.files} == {m.name: m.content for m in MEMBERS}
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_file_that_was_changed_or_cut_does_not_open(tmp_path, passphrase, share):
    kept = tmp_path / "kept"
    archive.write(kept, MEMBERS, ABOUT, passphrase)
    whole = kept.read_bytes()
    at = int(len(whole) * share)
    for damaged in (whole[:at], whole[:at] + bytes((whole[at] ^ 0xFF,)) + whole[at + 1 :]):
        kept.write_bytes(damaged)
        with (
            pytest.raises(HostError, match=r"damaged|no whole backup|sealed"),
            archive.opened(kept, passphrase, tmp_path),
        ):
            pass
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_no_byte_of_its_end_may_be_another(tmp_path):
    kept = tmp_path / "kept"
    archive.write(kept, MEMBERS, ABOUT, None)
    whole = kept.read_bytes()
    for at in range(len(whole) - 100, len(whole)):
        kept.write_bytes(whole[:at] + bytes((whole[at] ^ 0xFF,)) + whole[at + 1 :])
        with pytest.raises(HostError, match=r"damaged|no whole backup"), archive.opened(kept, None, tmp_path):
            pass


def test_another_passphrase_or_none_opens_nothing(tmp_path):
    kept = tmp_path / "kept"
    archive.write(kept, MEMBERS, ABOUT, PASSPHRASE)
    with pytest.raises(HostError, match="another passphrase"), archive.opened(kept, b"not that one, no", tmp_path):
        pass
    with pytest.raises(HostError, match="--passphrase-file"), archive.opened(kept, None, tmp_path):
        pass


def test_a_backup_that_is_not_sealed_is_not_taken_for_one_that_a_passphrase_sealed(tmp_path):
    kept = tmp_path / "kept"
    archive.write(kept, MEMBERS, ABOUT, None)
    refused = pytest.raises(HostError, match=r"is not sealed.*leave --passphrase-file out")
    with refused, archive.opened(kept, PASSPHRASE, tmp_path):
        pass


@pytest.mark.parametrize(
    "name", ["state/../../evil", "config/{}/evil", "outside//etc/evil", "config/./evil", ".", "/x"]
)
def test_names_that_lead_out_of_the_folder_are_no_part_of_a_backup(tmp_path, name):
    kept = tmp_path / "kept"
    archive.write(kept, (Member(name.format(tmp_path), b"x"),), ABOUT, None)
    with pytest.raises(HostError, match="damaged"), archive.opened(kept, None, tmp_path):
        pass
    assert [each.name for each in tmp_path.rglob("*")] == ["kept"]


@pytest.mark.parametrize("name", ["config//etc/evil", "outside//etc/evil", "state//calls/../evil", "config/../evil"])
def test_nothing_is_brought_back_outside_of_the_folders_that_were_named(tmp_path, name):
    manifest = Manifest(archive.FORMAT, "1.2.3", 0, "here", "/state", {name: Listed("", 0, 0o600)})
    asked_for = Asked(tmp_path / "kept", tmp_path / "state", tmp_path / "etc")
    with pytest.raises(HostError, match=r"outside of|nothing that a backup brings back"):
        list(_copies(manifest, tmp_path, asked_for))


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    told = tarfile.TarInfo(name)
    told.size, told.type = size, kind
    return told.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (header("config/large", 2**30 + 1), "at most"),
        (header("link", 2**40, tarfile.SYMTYPE), "at most"),
        (header("state/calls/one.zst", 2**30 + 1), "at most"),
        (header("a", 2**29, tarfile.XHDTYPE) + b"9" * 2**17, "header larger"),
        (header("a", 2**20, tarfile.GNUTYPE_LONGNAME) + b"a" * 2**20, "header larger"),
    ],
)
def test_what_would_fill_memory_or_disk_is_not_unpacked(tmp_path, headers, why):
    kept = tmp_path / "kept"
    kept.write_bytes(gzip.compress(headers))
    with pytest.raises(HostError, match=why), archive.opened(kept, None, tmp_path):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_all_files_together_and_the_request_log_for_itself_have_a_bound_that_is_kept_to_in_writing_too(
    tmp_path, monkeypatch
):
    kept = tmp_path / "kept"
    three, log = (Member(f"config/{each}", b"x" * 100) for each in "abc"), Member("state/calls/1", b"x" * 100)
    several = (*three, log)
    archive.write(kept, several, ABOUT, None)
    for names, size in (("LARGEST_BYTES", 299), ("LARGEST_LOG_BYTES", 99), ("MOST_FILES", 3)):
        with monkeypatch.context() as patched:
            patched.setattr(archive, names, size)
            with pytest.raises(HostError, match="at most"), archive.opened(kept, None, tmp_path):
                pass
            with pytest.raises(HostError, match="at most"):
                archive.write(tmp_path / "another", several, ABOUT, None)
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_a_backup_of_another_form_names_the_version_that_made_it(tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    monkeypatch.setattr(archive, "FORMAT", 2)
    archive.write(kept, MEMBERS, ABOUT, None)
    monkeypatch.undo()
    with pytest.raises(HostError, match=r"ollamactl 1\.2\.3 in form 2"), archive.opened(kept, None, tmp_path):
        pass
