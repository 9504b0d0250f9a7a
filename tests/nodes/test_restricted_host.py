"""What a restricted host does for whoever may start its one program: its policy, its files, its rule."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import HostError
from orchestrator.core.model import Footprint, InstanceId, NodeName, Placement, PoolName
from orchestrator.fleet.engines import ollama_host_unit
from orchestrator.nodes.authority import Authority
from orchestrator.nodes.host_program import host_program, version
from orchestrator.nodes.onhost import archive, base, keeps, policy, restricted, restricting, trusted
from orchestrator.nodes.onhost.environments import environment_text, forbidden
from orchestrator.nodes.onhost.work import Refused, Work
from orchestrator.nodes.restricting import PATHS, RULE, Restriction
from orchestrator.nodes.sending import packed

MODELS = "/srv/models"
DIGEST = "a" * 64
RESTRICTION = Restriction("gpu-1", "ops", "ollama", MODELS, {"unit": "[Unit]\n", "firewall": None})
POLICY = policy.parse(RESTRICTION.policy())
AUTHORITY = Authority(Authority.made(1_800_000_000))
HOST_PEM = AUTHORITY.for_host(["gpu-1"], 1_800_000_000)
UID = os.getuid()

# Each step as `deploy` and `destroy` ask for it.
STEPS: dict[str, dict[str, Any]] = {
    "system": {},
    "claim": {"place": "prod", "number": 3, "by": "kaan@ctl", "take_over": False},
    "hold": {"place": "prod", "number": 3, "leader": 0},
    "user": {"user": "ollama"},
    "folders": {"user": "ollama", "models_dir": MODELS},
    "look": {"digest": DIGEST},
    "room": {"sent": DIGEST, "sent_bytes": 1, "unpacked_bytes": 2},
    "receive": {"sent": DIGEST, "size": 1},
    "install": {"digest": DIGEST, "user": "ollama", "sent": DIGEST, "is_archive": True},
    "link": {"user": "ollama"},
    "unit": {"text": "[Unit]\n"},
    "firewall": {"text": None},
    "look tls": {},
    "have tls": {"authority": AUTHORITY.certificate, "host": HOST_PEM},
    "renew tls": {"authority": AUTHORITY.certificate, "host": HOST_PEM},
    "permit": {"place": "prod", "number": 3, "take_over": True},
    "stop": {},
    "drop kept": {},
    "drop models": {"models_dir": MODELS},
    "drop user": {"user": "ollama", "models_dir": MODELS, "are_models_gone": False},
    "drop folders": {},
}
ENVIRONMENT = {"OLLAMA_HOST": "10.0.0.7:11500", "OLLAMA_MODELS": MODELS, "CUDA_VISIBLE_DEVICES": "GPU-a"}
START = {
    "id": 1,
    "verb": "start",
    "instance": "gpu-1-gpu0-llama3.2:2f3b-0",
    "text": environment_text(ENVIRONMENT),
    "environment": ENVIRONMENT,
    "port": 11500,
    "ready_s": 60.0,
    "user": "ollama",
}


def steps(*asked: dict[str, Any], is_dry: bool = False, is_alone: bool = True) -> dict[str, Any]:
    return {"main": policy.BASE, "version": "x", "is_dry": is_dry, "is_alone": is_alone, "steps": list(asked)}


def test_every_step_that_there_is_is_known_to_the_policy_and_passes_as_it_is_asked_for():
    assert set(STEPS) == set(policy.STEPS) == set(base.STEPS)
    for do, asked in STEPS.items():
        policy.check_sent(POLICY, steps({"do": do, **asked}))
    policy.check_sent(
        POLICY, steps({"do": "have tls", "authority": "", "host": ""}, is_dry=True)
    )  # `plan`'s, before any


def test_every_request_that_there_is_is_known_to_the_policy():
    assert {f"on_{verb}" for verb in policy.VERBS} == {each for each in dir(keeps.Service) if each.startswith("on_")}
    policy.check_request(POLICY, START)


def test_what_instances_are_started_with_may_be_set_on_a_restricted_host():
    footprint = Footprint(1, 1, 1, 1, 1)
    cards = ("GPU-a", "GPU-b")
    placement = Placement(InstanceId("m-0"), PoolName("m"), NodeName("gpu-1"), cards, 2, 4096, footprint, "")
    unit = ollama_host_unit(placement, host="10.0.0.7", port=11500, kv_type="f16", models_dir=MODELS, is_over_tls=True)
    assert forbidden({**unit.env, "OLLAMACTL_INSTANCE": "{}"}) == ""


@pytest.mark.parametrize(
    ("do", "changed", "why"),
    [
        (
            "folders",
            {"models_dir": "/etc"},
            "models_dir: this host was restricted to '/srv/models', not '/etc'; .* again",
        ),
        ("folders", {"user": "root"}, "user: this host was restricted to 'ollama'"),
        ("drop models", {"models_dir": "/srv/models/../.."}, "models_dir: this host was restricted"),
        ("link", {"user": "root"}, "user: this host was restricted to 'ollama'"),
        ("unit", {"text": "[Service]\nExecStart=/bin/sh\n"}, "unit: text: not the one .*restrict gpu-1` again"),
        ("unit", {"text": None}, "unit: text: not the one"),
        ("firewall", {"text": 'include "/etc/shadow"'}, "firewall: text: not the one"),
        ("look", {"digest": "../../../../tmp/x"}, "digest: '../../../../tmp/x' is not what it should be"),
        ("install", {"sent": "../../etc/shadow"}, "sent: "),
        ("receive", {"sent": "../x"}, "sent: "),
        ("receive", {"size": -1}, "size: "),
        ("claim", {"place": ["x"]}, "place: "),
        ("have tls", {"host": "[instance]\nexec = /bin/sh\n"}, "host: "),
        ("renew tls", {"host": "; exec"}, "host: '; exec' is not"),
        ("renew tls", {"authority": None}, "authority: None is not"),
        ("system", {"root": "/tmp"}, "'root' is nothing that a restricted host is asked"),
    ],
)
def test_a_step_with_other_words_than_the_policys_is_refused_with_the_field_that_is_wrong(do, changed, why):
    with pytest.raises(Refused, match=why):
        policy.check_sent(POLICY, steps({"do": do, **STEPS[do], **changed}))


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ({"main": "restricting"}, "main: 'restricting' is no program"),
        ({"main": ["base"]}, "main: "),
        (steps({"do": "main"}), "do: 'main' is no step"),
        (steps("system"), "do: None is no step"),
        (steps({"do": "install", **STEPS["install"]}, is_dry=True), "is_dry: install changes what is there"),
        (steps({"do": "install", **STEPS["install"]}, is_alone=False), "is_alone: only hold and receive"),
        ({**steps(), "root": "/tmp"}, "'root' is nothing"),
        ({"main": "logs", "instance": "x", "lines": 5}, "logs: follow is missing"),
        ({"main": "logs", "instance": "../x", "lines": 5, "follow": False}, "instance: '../x'"),
        ({"main": "logs", "instance": "*", "lines": 5, "follow": False}, r"instance: '\*'"),
        ({"main": "keeps", "known": {"a": {"pid": 1, "run": "_UID=0"}}}, "known: "),
        (
            {"main": "look", "node": "a", "models_dir": "/root", "interval_s": 1, "most": 1, "nvml_wait_s": 5},
            "models_dir",
        ),
    ],
)
def test_what_is_no_program_of_a_restricted_host_is_refused(sent, why):
    with pytest.raises(Refused, match=why):
        policy.check_sent(POLICY, sent)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"instance": "../../cron.d/x"}, "instance: "),
        ({"user": "root"}, "user: this host was restricted to 'ollama'"),
        ({"text": START["text"] + 'LD_PRELOAD="/tmp/x.so"\n'}, "text: is not the environment as a file"),
        *(
            ({"environment": {name: "x"}, "text": f'{name}="x"\n'}, f"'{name}' may not be set")
            for name in ("PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "SHELLOPTS", "PS4", "GLIBC_TUNABLES")
        ),
        ({"environment": {"OLLAMA_HOST": 'x"\nexec = /bin/sh'}}, "'OLLAMA_HOST' may not be set"),
        ({"verb": "handle"}, "verb: 'handle' is none"),
        ({"verb": "start", "file": "/etc/x"}, "'file' is nothing"),
    ],
)
def test_an_instance_cannot_be_started_with_what_root_would_run(changed, why):
    with pytest.raises(Refused, match=why):
        policy.check_request(POLICY, {**START, **changed})


# --- whose folders are ------------------------------------------------------------------------------------------------


def host(root: Path) -> Path:
    """The folders of a host that is as it should be."""
    for each in (*restricted.TRUSTED[3:], Path(policy.PROGRAM).parent, "/etc/sudoers.d", "/usr/bin", "/srv"):
        (root / str(each).lstrip("/")).mkdir(parents=True, exist_ok=True, mode=0o755)
    for path in (restricted.PYTHON, policy.PROGRAM):
        (root / path.lstrip("/")).write_text("")
    (root / policy.FILE.lstrip("/")).write_text(RESTRICTION.policy())
    return root


def test_the_policy_is_read_where_all_of_it_is_roots_alone(tmp_path):
    assert restricted.known(host(tmp_path), UID) == POLICY


@pytest.mark.parametrize(
    "path",
    [policy.FILE, policy.PROGRAM, "/usr/local/lib", "/usr/local/bin", "/opt/ollamactl", "/etc/systemd/system", "/"],
)
def test_nothing_is_done_where_somebody_else_could_have_put_what_root_would_read_or_write(tmp_path, path):
    root = host(tmp_path)
    (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
    (root / path.lstrip("/")).chmod(0o777)
    with pytest.raises(Refused, match=f"^others than root may write in {path}: `chmod go-w {path}` there$"):
        restricted.known(root, UID)


def test_a_folder_of_models_that_somebody_else_can_put_another_in_place_of_is_refused(tmp_path):
    root = host(tmp_path)
    (root / "srv/models").mkdir(mode=0o777)
    restricted.known(root, UID)
    (root / "data/of-ours").mkdir(parents=True)
    (root / "srv/models").rmdir()
    (root / "srv/models").symlink_to("/data/of-ours/models")
    restricted.known(root, UID)
    (root / "data").chmod(0o777)
    with pytest.raises(
        Refused, match=r"models_dir /srv/models: others than root may write in /data: .* another `models_dir`"
    ):
        restricted.known(root, UID)


def test_links_are_followed_within_the_host_and_not_for_ever(tmp_path):
    (tmp_path / "a").symlink_to("/b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(Refused, match="/a leads through too many links"):
        trusted.check(tmp_path, "/a", UID)
    (tmp_path / "up").symlink_to("../../../nothing")
    trusted.check(tmp_path, "/up/there", UID)


# --- what is sent, and the files --------------------------------------------------------------------------------------


def test_what_is_asked_is_read_back_and_nonsense_is_refused():
    asked = {"main": "version", "version": version()}
    assert restricted.read(io.BytesIO(packed(asked))) == asked
    for nonsense in (b"", b"x\n", b"5\nabcde", b"-1\n", b"99999999999\n", packed([1])[:-1], packed(["list"])):  # type: ignore[arg-type]
        with pytest.raises(Refused, match="nothing that could be read"):
            restricted.read(io.BytesIO(nonsense))


def test_the_program_is_one_file_of_the_same_bytes_each_time_and_all_its_modules_are_found(tmp_path):
    path = tmp_path / "host.pyz"
    path.write_bytes(host_program())
    host_program.cache_clear()
    assert host_program() == path.read_bytes()
    with zipfile.ZipFile(path) as archived:
        names = [each[:-3].replace("/", ".") for each in archived.namelist() if each.endswith(".py")]
        assert version() in archived.read("__main__.py").decode()
    imports = "; ".join(f"import {each}" for each in names if not each.endswith(("__init__", "__main__")))
    command = ["python3", "-I", "-c", f"import sys; sys.path.insert(0, {str(path)!r}); {imports}"]
    subprocess.run(command, check=True, cwd="/", env={"PATH": "/usr/bin:/bin"})


def test_the_rule_allows_one_command_line_and_accounts_that_cannot_be_restricted_are_refused():
    assert RESTRICTION.rule().splitlines()[1:] == [
        "ops ALL=(ALL:ALL) !ALL",
        "ops ALL=(root) NOPASSWD: NOSETENV: /usr/bin/python3 -I -S /usr/local/lib/ollamactl/host.pyz",
    ]
    for account in ("root", "ops ALL=(ALL) ALL\n#", "%sudo", "ALL,ops", ""):
        with pytest.raises(HostError, match="cannot be restricted: name a `user` there that is not root"):
            Restriction("gpu-1", account, "ollama", MODELS, {}).rule()
    for user in ("root", "ops"):
        with pytest.raises(HostError, match=f"`deploy.user` is {user}, and must be a user of its own"):
            Restriction("gpu-1", "ops", user, MODELS, {}).policy()


def test_files_are_put_there_once_the_rule_last_and_are_taken_away_again(tmp_path, monkeypatch):
    monkeypatch.setattr(restricting, "_check_rule", lambda *_: None)  # sudo's own reading is tried on a host
    root, seen = host(tmp_path), []
    for path in PATHS[:2]:
        (root / path.lstrip("/")).unlink()
    work, files = Work(root), RESTRICTION.files()

    def is_fit() -> None:
        seen.append([(root / path.lstrip("/")).exists() for path in PATHS])

    assert restricting.restrict(work, files, [], is_fit, UID) == list(PATHS)
    assert seen == [[True, True, False]]
    assert (root / RULE.lstrip("/")).stat().st_mode & 0o777 == 0o440
    assert restricting.restrict(work, files, [], is_fit, UID) == []
    assert restricting.undo(work, list(PATHS)) == list(reversed(PATHS))
    assert restricting.undo(work, list(PATHS)) == []
    assert (root / "etc/sudoers.d").is_dir()


# --- archives ---------------------------------------------------------------------------------------------------------


def test_an_archive_whose_links_lead_outside_through_each_other_is_refused(tmp_path):
    path, folder = tmp_path / "a.tgz", tmp_path / "to"
    folder.mkdir()
    with tarfile.open(path, "w:gz") as packed_up:
        for name, to in (("d", "."), ("up", "d/.."), ("bin/ollama", "../up/secret")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, to
            packed_up.addfile(member)
    for act in (lambda: archive.size_of(path), lambda: archive.take_out(path, folder, lambda name: None)):
        with pytest.raises(archive.UnfitArchive, match="leads through another link"):
            act()
