"""API keys of a running gateway: taken over while it is asked, kept as they were where their file is damaged."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from running import TIMEOUT_S, Up, environment, needs_redis, ollamactl, until

from tests.fleet.given_world import Played, model

Start = Callable[..., Up]


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Start]:
    """The command before one server with the models m and n, ready; at the end nothing of it is left."""
    needs_redis()
    with ExitStack() as made:

        def start(**settings: Any) -> Up:
            played = Played(tmp_path, model("m"), model("n"))
            made.callback(played.kill)
            instances = [{"url": played.start().url}]
            config = tmp_path / "cluster.yaml"
            config.touch(mode=0o600)
            config.write_text(yaml.safe_dump({"instances": instances, **settings}))
            up = Up(tmp_path / "state", config=config, command="gateway")
            made.callback(up.close)
            up.wait_until_ready()
            return up

        yield start


def keys(up: Up | None, *args: str, cwd: Path, code: int = 0) -> Any:
    """`ollamactl keys …` beside it; what it prints, read."""
    done = ollamactl("keys", *args, "--state", cwd / "state", cwd=cwd)
    assert done.returncode == code, done.stderr
    assert up is None or "has not taken this over" not in done.stderr, up.screen
    return json.loads(done.stdout) if "--json" in args else done.stdout + done.stderr


def secret(up: Up | None, *args: str, cwd: Path) -> str:
    return str(keys(up, *args, "--json", cwd=cwd)["secret"])


# One for all, as making one reads every certificate of the machine; each call has a connection of its own.
HTTP = httpx.Client(verify=False, timeout=TIMEOUT_S, headers={"Connection": "close"})


def chat(up: Up, key: str, model: str = "m") -> httpx.Response:
    body = {"model": model, "stream": False, "options": {"num_predict": 2}, "prompt": "hello"}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return HTTP.post(f"{up.endpoint}/api/generate", json=body, headers=headers)


def opens(up: Up, key: str, status: int = 200) -> None:
    """Every worker answers so: they hear of a change at the same time, and each acts on it when it can. A connection
    each, more of them than chance could send to one alone."""
    until(lambda: all(chat(up, key).status_code == status for _ in range(16)), f"the key is answered {status}")


def problem(up: Up, admin: str) -> str:
    told = HTTP.get(f"{up.endpoint}/status.json", headers={"Authorization": f"Bearer {admin}"})
    return "\n".join(told.json()["notes"])


class Callers:
    """Who ask without a pause, by the secret of the moment."""

    def __init__(self, up: Up, key: str, count: int = 2) -> None:
        self.answers: Counter[int] = Counter()
        self.key = key
        self._up, self._end = up, threading.Event()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(count)]

    def _ask_on(self) -> None:
        while not self._end.is_set():
            self.answers[chat(self._up, self.key).status_code] += 1

    def __enter__(self) -> Callers:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for each in self._threads:
            each.join()

    def more(self, calls: int = 8) -> None:
        """Wait until so many more were answered."""
        wanted = self.answers.total() + calls
        until(lambda: self.answers.total() >= wanted, "calls are answered")


def test_a_key_is_made_rotated_and_revoked_while_callers_ask_and_no_call_fails(gateway, tmp_path):
    boss = secret(None, "create", "boss", "--scope", "admin", cwd=tmp_path)
    first = secret(None, "create", "team", cwd=tmp_path)
    up = gateway()
    with Callers(up, first) as callers:
        callers.more()
        other = secret(up, "create", "other", "--model", "n", cwd=tmp_path)
        opens(up, other, 404)
        assert chat(up, other, "n").status_code == 200
        callers.more()
        second = secret(up, "rotate", "team", "--overlap", "1h", cwd=tmp_path)
        opens(up, second)
        callers.more()  # by the old one
        callers.key = second
        callers.more()
        third = secret(up, "rotate", "team", "--overlap", "1h", cwd=tmp_path)
        opens(up, third)
        callers.key = third
        callers.more()
    assert set(callers.answers) == {200}
    keys(up, "rotate", "team", "--overlap", "0s", cwd=tmp_path)
    for old in (first, second, third):
        opens(up, old, 401)
        assert "this API key of team was replaced by a newer one and ended on" in chat(up, old).json()["error"]
    keys(up, "revoke", "other", cwd=tmp_path)
    opens(up, other, 401)
    acts = [json.loads(line)["act"] for line in (up.state / "audit.jsonl").read_text().splitlines()]
    assert acts == [*2 * ["create key"], "create key", *3 * ["rotate key"], "revoke key"]
    everything = "".join(each.read_text() for each in (*up.state.glob("logs/*"), up.state / "keys.json"))
    assert not [each for each in (boss, first, second, third, other) if each in everything]


def test_a_file_of_keys_that_is_damaged_or_open_to_others_is_refused_and_the_old_keys_stay(gateway, tmp_path):
    boss = secret(None, "create", "boss", "--scope", "admin", "--scope", "infer", cwd=tmp_path)
    up = gateway()
    file = up.state / "keys.json"
    whole = file.read_bytes()
    more = secret(up, "create", "more", cwd=tmp_path)
    both = file.read_bytes()

    file.write_bytes(both[: len(both) // 2])
    until(lambda: "is no whole JSON" in problem(up, boss), "a torn file is told of")
    opens(up, more)
    torn = keys(None, "create", "third", cwd=tmp_path, code=3)
    assert f"{file}: is no whole JSON" in torn
    assert "Traceback" not in torn

    file.write_bytes(whole)
    file.chmod(0o644)
    until(lambda: "others may read or change it" in problem(up, boss), "an open file is told of")
    opens(up, more)
    assert f"make it private: chmod 600 {file}" in keys(None, "list", cwd=tmp_path, code=3)

    file.unlink()
    until(lambda: "is gone" in problem(up, boss), "that there is none is told of")
    opens(up, more)

    file.write_bytes(whole)
    file.chmod(0o600)
    opens(up, more, 401)
    opens(up, boss)
    assert "keys" not in problem(up, boss)


def test_without_its_last_key_an_endpoint_is_closed_and_not_open(gateway, tmp_path):
    only = secret(None, "create", "only", cwd=tmp_path)
    up = gateway()
    opens(up, only)
    assert "nobody is let in until there is one" in keys(up, "revoke", "only", cwd=tmp_path)
    opens(up, only, 401)
    assert chat(up, "").status_code == 401
    opens(up, secret(up, "create", "next", cwd=tmp_path))


def test_the_first_key_of_an_open_endpoint_that_runs_closes_it_and_says_so(gateway, tmp_path):
    up = gateway()
    assert chat(up, "").status_code == 200
    told = keys(up, "create", "first", cwd=tmp_path)
    assert "the first key: from now on the endpoint asks every caller for one, and answers 401 without" in told
    opens(up, "", 401)
    assert "the first key" not in keys(up, "create", "second", cwd=tmp_path)


def test_keys_of_the_settings_and_kept_ones_open_alike_and_no_name_stands_in_both(gateway, tmp_path):
    mine = "0123456789abcdef"
    up = gateway(keys=[{"name": "mine", "secret": mine, "admin": True}])
    kept = secret(up, "create", "kept", "--expires", "3d", cwd=tmp_path)
    opens(up, kept)
    opens(up, mine)
    assert "the API key kept ends on" in problem(up, mine)
    assert "there is a key 'mine' already" in keys(None, "create", "mine", cwd=tmp_path, code=1)
    listed = {each["name"]: each["in"] for each in keys(None, "list", "--json", cwd=tmp_path)}
    assert listed == {"mine": "cluster.yaml", "kept": str(up.state / "keys.json")}

    config = tmp_path / "cluster.yaml"
    settings = yaml.safe_load(config.read_text())
    twice = [*settings["keys"], {"name": "kept", "secret": mine[::-1]}]
    config.write_text(yaml.safe_dump({**settings, "keys": twice}))
    until(lambda: "'kept' is in cluster.yaml and kept by `ollamactl keys`, too" in problem(up, mine), "it is refused")
    opens(up, kept)


@pytest.mark.parametrize("command", ["up", "gateway"])
def test_an_endpoint_that_other_machines_reach_does_not_start_without_keys(tmp_path, command):
    config = tmp_path / "cluster.yaml"
    config.write_text("instances: [{url: http://127.0.0.1:1}]\n")
    argv = (command, "--state", tmp_path / "state", "--config", config, "--listen", "0.0.0.0:0")
    refused = ollamactl(*argv, cwd=tmp_path)
    assert refused.returncode == 3
    assert "other machines reach 0.0.0.0:0, and without keys anybody there may ask" in refused.stderr
    assert "ollamactl keys create NAME" in refused.stderr
    assert not (tmp_path / "state").exists()


def test_writers_who_come_at_once_lose_no_key(tmp_path):
    argv = [sys.executable, "-m", "orchestrator.cli", "keys", "create"]
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment(), "stdout": subprocess.DEVNULL}
    names = [f"key-{index}" for index in range(4)]
    writers = [subprocess.Popen([*argv, name, "--state", str(tmp_path / "state")], **options) for name in names]
    assert [each.wait(TIMEOUT_S) for each in writers] == [0] * len(names)
    listed = keys(None, "list", "--json", cwd=tmp_path)
    assert sorted(each["name"] for each in listed) == names
    left = sorted(each.name for each in (tmp_path / "state").iterdir())
    assert left == ["audit.jsonl", "keys.json", "keys.json.lock"]
