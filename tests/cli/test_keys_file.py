"""The file of API keys: what it may say, whose it may be, and what a change leaves of it."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.app import key_changes as changes
from orchestrator.app import settings_in_use
from orchestrator.app.key_changes import Place
from orchestrator.app.keys import NO_FILE, KeptKeys, changing, joined, parse_keys, read_keys, text_of
from orchestrator.app.paths import StatePaths
from orchestrator.app.rules import keys_of
from orchestrator.cli.main import main
from orchestrator.core.errors import CallerError, HostError, SettingsError
from orchestrator.settings import ClusterSettings
from orchestrator.settings.access import digest_text

NOW = datetime(2027, 1, 31, 12, tzinfo=UTC)
DIGEST = digest_text("0123456789abcdef")
PLAIN = ClusterSettings.model_validate({"models": {"m": {}}})


def place(path: Path, **settings: Any) -> Place:
    return Place(path, ClusterSettings.model_validate(settings) if settings else None, is_in_use=False)


def made(kept: KeptKeys, name: str, **fields: Any) -> tuple[KeptKeys, str]:
    kept, new = changes.create(kept, place(Path("keys.json")), {"name": name, **fields}, NOW)
    return kept, new.secret


def opens(kept: KeptKeys, secret: str) -> bool:
    try:
        keys_of(joined(ClusterSettings(), kept)).caller(f"Bearer {secret}")
    except CallerError:
        return False
    return True


def test_what_is_written_is_read_again_and_holds_no_secret(tmp_path):
    kept, first = made(NO_FILE, "a", models=("llama*",), limits={"rpm": 5}, expires="2099-01-01")
    kept, second = made(kept, "b")
    with changing(tmp_path / "deep" / "keys.json") as writing:
        writing.keep(kept.keys)
    path = tmp_path / "deep" / "keys.json"
    assert read_keys(path) == kept
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert first not in text
    assert second not in text
    assert opens(kept, first)
    assert len({first, second}) == 2
    assert all(each.isalnum() for each in first.removeprefix(changes.MARK))


def test_a_new_secret_ends_every_one_of_before_no_later_than_its_overlap():
    kept, first = made(NO_FILE, "a")
    kept, second = changes.rotate(kept, "a", datetime.now(UTC), timedelta(days=2))
    kept, third = changes.rotate(kept, "a", datetime.now(UTC), timedelta(days=1))
    assert [opens(kept, each) for each in (first, second.secret, third.secret)] == [True] * 3
    ends = {each.until for each in third.key.old}
    assert len(ends) == 1
    kept, last = changes.rotate(kept, "a", datetime.now(UTC) - timedelta(seconds=5), timedelta())
    assert [opens(kept, each) for each in (first, second.secret, third.secret, last.secret)] == [*3 * [False], True]


def test_secrets_that_ended_long_ago_are_forgotten():
    kept, _ = made(NO_FILE, "a")
    kept, _ = changes.rotate(kept, "a", NOW, timedelta(days=1))
    kept, _ = changes.rotate(kept, "a", NOW + timedelta(days=90), timedelta(days=1))
    assert len(kept.keys[0].old) == 1


def test_other_terms_leave_the_secret_and_what_was_not_named():
    kept, secret = made(NO_FILE, "a", models=("m",), expires="2099-01-01", limits={"rpm": 5}, tenant="acme")
    kept, changed = changes.change(kept, "a", {"expires": "never", "limits": {"tpm": 7}, "models": ("n",)})
    assert (changed.expires, changed.models, changed.tenant) == (None, ("n",), "acme")
    assert (changed.limits.rpm, changed.limits.tpm) == (5, 7)
    assert opens(kept, secret)


def test_a_name_is_given_once_and_only_kept_keys_are_changed():
    kept, _ = made(NO_FILE, "a")
    beside = place(Path("keys.json"), models={"m": {}}, keys=[{"name": "b", "secret": 4 * "abcd"}])
    for name in ("a", "b", "ollamactl"):
        with pytest.raises(HostError, match="there is a key"):
            changes.create(kept, beside, {"name": name}, NOW)
    for act in (
        lambda: changes.rotate(kept, "b", NOW, timedelta()),
        lambda: changes.change(kept, "b", {"priority": 1}),
        lambda: changes.revoke(kept, ("a", "b")),
    ):
        with pytest.raises(HostError, match="there is no key 'b' here; those kept: a"):
            act()
    assert changes.revoke(kept, ("a",)).keys == ()


ONE = {"name": "a", "digest": DIGEST}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"keys": [{**ONE, "scopes": ["ask"]}]}, "keys.0.scopes.0: "),
        ({"keys": [{**ONE, "nmae": "x"}]}, "keys.0.nmae: "),
        ({"keys": [{**ONE, "expires": "soon"}]}, "keys.0.expires: "),
        ({"keys": [{"name": "a", "secret": "0123456789abcdef"}]}, "this file holds no secret"),
        ({"keys": [ONE, {**ONE, "name": "b"}]}, "b and a have the same secret"),
        ({"keys": [ONE, {**ONE, "digest": digest_text("x")}]}, "there are two keys named 'a'"),
        ({"version": 2, "keys": []}, "version: "),
        ([], "Input should be an object"),
    ],
)
def test_a_file_that_is_wrong_is_refused_as_a_whole_and_by_its_place(tmp_path, document, why):
    with pytest.raises(SettingsError) as refused:
        parse_keys(json.dumps(document), tmp_path / "keys.json")
    assert str(tmp_path / "keys.json") in str(refused.value)
    assert why in str(refused.value)
    assert "0123456789abcdef" not in str(refused.value)


def test_a_file_that_is_torn_empty_or_not_its_owners_alone_is_refused(tmp_path):
    path, whole = tmp_path / "keys.json", text_of(made(NO_FILE, "a")[0].keys)
    assert read_keys(path) is NO_FILE
    with pytest.raises(SettingsError, match="`keys_file` names it"):
        read_keys(path, is_needed=True)
    for text, why in ((whole[:40], "is no whole JSON"), ("", "is empty")):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(SettingsError, match=why):
            read_keys(path)
    path.write_text(whole)
    for mode in (0o620, 0o604, 0o602):
        path.chmod(mode)
        with pytest.raises(SettingsError, match=r"others may read or change it .* chmod 600"):
            read_keys(path)
    path.chmod(0o640)
    assert len(read_keys(path).keys) == 1
    with pytest.raises(SettingsError, match=r"is not a file|Is a directory"):
        read_keys(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_file_of_another_user_is_refused(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(text_of(()))
    path.chmod(0o600)
    os.chown(path, 65534, 65534)
    with pytest.raises(SettingsError, match="belongs to another user"):
        read_keys(path)


def test_who_would_write_waits_for_who_writes(tmp_path):
    path, order = tmp_path / "keys.json", []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with changing(path) as writing:
            order.append([each.name for each in writing.kept.keys])

    with changing(path) as writing:
        other = threading.Thread(target=second)
        other.start()
        entered.wait()
        with (tmp_path / "keys.json.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not order
        writing.keep(made(NO_FILE, "a")[0].keys)
    other.join()
    assert order == [["a"]]


def test_a_change_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path, kept = tmp_path / "keys.json", made(NO_FILE, "a")[0]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with changing(path) as writing:
        writing.keep(kept.keys)
        monkeypatch.setattr("orchestrator.app.keys.write_whole", full)
        with pytest.raises(HostError, match="No space left on device; nothing was changed"):
            writing.keep(())
    assert read_keys(path) == kept


# --- beside the settings ----------------------------------------------------------------------------------------------


def test_children_read_kept_keys_and_those_of_the_settings_and_the_clusters_own(tmp_path):
    paths = StatePaths(tmp_path)
    kept, secret = made(NO_FILE, "kept")
    own = ClusterSettings.model_validate({"models": {"m": {}}, "keys": [{"name": "own", "secret": 4 * "abcd"}]})
    settings_in_use.write(paths, joined(own, kept))
    read = settings_in_use.read(paths)
    assert [each.name for each in read.keys] == ["own", "kept", "ollamactl"]
    keys, asking = keys_of(read), settings_in_use.asking_key(paths)
    assert [keys.caller(f"Bearer {each}").name for each in (4 * "abcd", secret, asking)] == ["own", "kept", "ollamactl"]
    assert not [each for each in tmp_path.glob("*.*") if secret in each.read_text() and each.name != "own.key"]

    before = settings_in_use.written(paths)
    kept, more = made(kept, "more")
    settings_in_use.write_keys(paths, joined(own, kept))
    assert settings_in_use.written(paths) == before
    assert keys_of(settings_in_use.with_keys(paths, read)).caller(f"Bearer {more}").name == "more"


def test_without_any_key_nobody_needs_one_and_none_is_made(tmp_path):
    paths = StatePaths(tmp_path)
    settings_in_use.write(paths, PLAIN)
    assert keys_of(settings_in_use.read(paths)).is_open
    assert settings_in_use.asking_key(paths) == ""
    assert not paths.own_key.exists()


def test_an_empty_file_of_keys_closes_the_endpoint(tmp_path):
    paths = StatePaths(tmp_path)
    settings_in_use.write(paths, joined(PLAIN, KeptKeys()))
    assert not keys_of(settings_in_use.read(paths)).is_open


def test_one_name_or_secret_in_two_files_is_refused():
    kept, _ = made(NO_FILE, "a")
    for key, why in (
        ({"name": "a", "secret": 4 * "abcd"}, "'a' is in cluster.yaml and kept"),
        ({"name": "b", "digest": kept.keys[0].digest}, "has the secret of 'b'"),
    ):
        with pytest.raises(SettingsError, match=why):
            joined(ClusterSettings.model_validate({"models": {"m": {}}, "keys": [key]}), kept)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_keys_are_not_written_where_the_cluster_of_another_user_could_not_read_them(tmp_path):
    os.chown(tmp_path, 65534, 65534)
    done = CliRunner().invoke(main, ["keys", "create", "a", "--state", str(tmp_path)])
    assert done.exit_code == 1
    assert not list(tmp_path.iterdir())


# --- the first one ----------------------------------------------------------------------------------------------------


def made_by_command(folder: Path, *words: str) -> tuple[str, str]:
    """What `ollamactl keys create` prints, on stdout and stderr."""
    done = CliRunner().invoke(main, ["keys", "create", *words, "--state", str(folder / "state")])
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def listed(folder: Path) -> str:
    return CliRunner().invoke(main, ["keys", "list", "--state", str(folder / "state")]).stdout


def test_the_first_key_says_that_everybody_needs_one_from_then_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "makes the first, and from then on every caller needs one" in listed(tmp_path)
    told, notes = made_by_command(tmp_path, "first")
    assert "Authorization: Bearer SECRET" in told
    assert "asks every caller for one, and answers 401 without" in notes
    assert "/metrics need one with `--scope admin`" in notes
    told, notes = made_by_command(tmp_path, "second", "--scope", "admin")
    assert "Authorization: Bearer SECRET" in told
    assert notes == ""


def test_json_tells_the_first_key_from_those_after_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told, notes = made_by_command(tmp_path, "first", "--scope", "admin", "--json")
    assert json.loads(told)["closes_endpoint"] is True
    assert "answers 401 without" in notes
    assert "--scope admin" not in notes
    assert json.loads(made_by_command(tmp_path, "second", "--json")[0])["closes_endpoint"] is False


@pytest.mark.parametrize(
    ("settings", "closes"),
    [
        ("", True),
        ("open: true", True),
        ("open: false", False),
        ("keys: [{name: own, secret: 0123456789abcdef}]", False),
        ("issuers: {a: {url: https://a.example, audience: [o], grants: {all: {when: {}}}}}", False),
    ],
)
def test_a_first_key_beside_settings_that_ask_already_closes_nothing(tmp_path, monkeypatch, settings, closes):
    monkeypatch.chdir(tmp_path)
    Path("cluster.yaml").write_text(f"models: {{llama3.2:3b: }}\n{settings}\n")
    Path("cluster.yaml").chmod(0o600)
    told, notes = made_by_command(tmp_path, "first", "--json")
    assert json.loads(told)["closes_endpoint"] is closes
    assert ("answers 401 without" in notes) is closes
    assert ("`open: true` holds no more" in notes) is (settings == "open: true")


def test_keys_are_made_and_listed_without_the_secrets_of_the_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("W_KEY", raising=False)
    Path("cluster.yaml").write_text("models: {llama3.2:3b: }\nkeys: [{name: w, secret: 'env:W_KEY'}]\n")
    told, notes = made_by_command(tmp_path, "kept", "--json")
    assert (json.loads(told)["name"], notes) == ("kept", "")
    assert {"w", "kept"} <= set(listed(tmp_path).split())


def test_a_key_after_the_last_one_was_revoked_closes_nothing_that_is_closed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made_by_command(tmp_path, "first")
    CliRunner().invoke(main, ["keys", "revoke", "first", "--state", str(tmp_path / "state")])
    assert "nobody is let in; `ollamactl keys create NAME` makes the first\n" in listed(tmp_path)
    assert made_by_command(tmp_path, "next")[1] == ""
