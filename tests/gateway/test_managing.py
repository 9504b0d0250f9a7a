"""Ollama's endpoints that change models, through `ollamactl gateway` as callers meet it: keys, wire, ways and ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import ollama
import pytest
import yaml

from orchestrator.app import audit
from orchestrator.settings import ClusterSettings
from orchestrator.whole_file import write_whole
from tests.cluster.running import TIMEOUT_S, Up, needs_redis, unit_pid, until
from tests.fleet.given_world import Played, model
from tests.gateway.played import played

BOSS, ASKER, LIMITED = ("boss-of-models-1234", "somebody-who-asks-1", "limited-to-globs-123")
KEYS = [
    {"name": "boss", "secret": BOSS, "scopes": ["infer", "models"]},
    {"name": "asker", "secret": ASKER, "admin": True},
    {"name": "limited", "secret": LIMITED, "scopes": ["models"], "models": ["mine*"]},
]
TO_PULL = [
    model(f"{name}:8b", is_pulled=False, file_bytes=10**9, digest=f"d{number}" * 32)
    for number, name in enumerate(("later", "more", "last"))
]


class Cluster:
    """One gateway before two servers."""

    def __init__(self, up: Up, one: Played, two: Played) -> None:
        self.up, self.one, self.two = up, one, two
        self.client = ollama.Client(up.endpoint, headers=_bearer(BOSS), timeout=TIMEOUT_S)

    def ask(self, method: str, path: str, key: str = BOSS, **more: Any) -> httpx.Response:
        return httpx.request(method, self.up.endpoint + path, headers=_bearer(key), timeout=TIMEOUT_S, **more)

    def ask_stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        url = self.up.endpoint + path
        with httpx.stream("POST", url, json=body, headers=_bearer(BOSS), timeout=TIMEOUT_S) as reply:
            for line in reply.iter_lines():
                yield json.loads(line)

    def names(self) -> tuple[set[str], set[str]]:
        return _names(self.one), _names(self.two)

    def listed(self) -> set[str]:
        return {each.model or "" for each in self.client.list().models}


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _names(played: Played) -> set[str]:
    return {each["name"] for each in httpx.get(f"{played.url}/api/tags", timeout=TIMEOUT_S).json()["models"]}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Tests leave each other's models alone."""
    needs_redis()
    folder = tmp_path_factory.mktemp("managing")
    with ExitStack() as stack:
        yield started(stack, folder, pull_bandwidth_bytes_s=2e8, speed=4.0)


def started(stack: ExitStack, folder: Path, **pace: Any) -> Cluster:
    one, two = (Played(folder, model("small:1b"), model("kept:1b"), *TO_PULL, **pace) for _ in range(2))
    for each in (one, two):
        stack.callback(each.kill)
        each.start()
    config = folder / "cluster.yaml"
    instances = [{"url": one.url, "name": "one"}, {"url": two.url, "name": "two"}]
    tiers = {"small": {"model": "kept:1b"}}
    write_whole(
        config,
        yaml.safe_dump(
            {
                "instances": instances,
                "keys": KEYS,
                "tiers": tiers,
                "routes": {"auto": {"primary": "small"}},
                "gateway": {"workers": 1},
            }
        ),
        mode=0o600,
    )
    up = Up(folder / "state", config=config, command="gateway")
    stack.callback(up.close)
    up.wait_until_ready()
    return Cluster(up, one, two)


# --- who may ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", f"/api/blobs/sha256:{'0' * 64}"),
        ("DELETE", "/v1/models/small:1b"),
    ],
)
def test_without_the_scope_models_nothing_is_changed(cluster: Cluster, method: str, path: str) -> None:
    reply = cluster.ask(method, path, ASKER, json={"model": "small:1b"})
    assert reply.status_code == 403
    error = reply.json()["error"]
    text = error["message"] if path.startswith("/v1/") else error
    assert "it needs the scope models" in text
    assert cluster.ask(method, path, "nobody's key", json={"model": "small:1b"}).status_code == 401
    assert "small:1b" in cluster.names()[0]


def test_a_key_for_some_models_changes_no_others(cluster: Cluster) -> None:
    reply = cluster.ask("POST", "/api/copy", LIMITED, json={"source": "mine", "destination": "small:1b"})
    assert (reply.status_code, reply.json()) == (403, {"error": "the key of limited may not change small:1b"})


async def test_without_keys_nobody_changes_models(tmp_path: Path) -> None:
    url, body = "/api/delete", {"model": "small:1b"}
    settings = ClusterSettings.model_validate({"models": {"m": {}}})
    async with (
        played(tmp_path, settings, []) as world,
        aiohttp.ClientSession() as http,
        http.delete(world.url + url, json=body) as reply,
    ):
        assert reply.status == 403
        assert "needs an API key with the scope models" in (await reply.json())["error"]


# --- Ollama's own client ---------------------------------------------------------------------------------------------


def test_ollamas_client_pulls_copies_and_deletes_on_every_server(cluster: Cluster) -> None:
    told = list(cluster.client.pull("later:8b", stream=True))
    assert (told[0].status, told[-1].status) == ("pulling manifest", "success")
    layer = [each for each in told if each.digest]
    assert {each.total for each in layer} == {10**9}
    assert (layer[-1].completed or 0) == 10**9
    assert "later:8b" in cluster.names()[0] & cluster.names()[1]
    assert "later:8b" in cluster.listed()
    assert cluster.client.chat("later:8b", [{"role": "user", "content": "hello"}], options={"num_predict": 2}).done
    assert cluster.client.copy("later:8b", "mine:8b").status == "success"
    assert cluster.client.delete("later:8b").status == "success"
    assert "mine:8b" in cluster.names()[0] & cluster.names()[1]
    assert "later:8b" not in cluster.names()[0] | cluster.names()[1] | cluster.listed()
    acts = [(each.who, each.by, each.act, each.what) for each in audit.read(cluster.up.state / "audit.jsonl")]
    for by in ("api", "controller"):
        assert ("boss", by, "pull", "later:8b") in acts
        assert ("boss", by, "copy", "later:8b to mine:8b") in acts


def test_ollamas_client_makes_a_model_of_a_file_that_it_sends(cluster: Cluster, tmp_path: Path) -> None:
    weights = tmp_path / "weights.gguf"
    weights.write_bytes(os.urandom(5 * 2**20))
    digest = cluster.client.create_blob(weights)
    assert digest == f"sha256:{hashlib.sha256(weights.read_bytes()).hexdigest()}"
    for each in (cluster.one, cluster.two):
        assert httpx.head(f"{each.url}/api/blobs/{digest}").status_code == 200
    assert cluster.client.create("made", files={"weights.gguf": digest}, system="Be brief.").status == "success"
    assert "made:latest" in cluster.names()[0] & cluster.names()[1]


def test_the_audit_of_gateway_and_controller_says_what_a_model_is_made_of(cluster: Cluster) -> None:
    assert cluster.client.create("offspring", from_="small:1b").status == "success"
    acts = [(each.by, each.act, each.what) for each in audit.read(cluster.up.state / "audit.jsonl")]
    made = [("api", "create", "offspring from small:1b"), ("controller", "create", "offspring from small:1b")]
    assert [each for each in acts if "offspring" in each[2]] == made


def test_ollamas_client_is_told_what_there_is_not(cluster: Cluster) -> None:
    with pytest.raises(ollama.ResponseError, match="pull model manifest: file does not exist"):
        cluster.client.pull("nobody-has-this")
    with pytest.raises(ollama.ResponseError, match="pull model manifest: file does not exist"):
        list(cluster.client.pull("nobody-has-this", stream=True))
    with pytest.raises(ollama.ResponseError, match="model 'nobody' not found") as told:
        cluster.client.delete("nobody")
    assert told.value.status_code == 404


# --- the wire --------------------------------------------------------------------------------------------------------


def test_answers_have_the_form_of_ollamas(cluster: Cluster) -> None:
    made = cluster.ask("POST", "/api/create", json={"model": "wire", "from": "small:1b", "stream": False})
    assert (made.status_code, made.headers["content-type"], made.text) == (
        200,
        "application/json",
        '{"status":"success"}',
    )
    copied = cluster.ask("POST", "/api/copy", json={"source": "wire", "destination": "wire2"})
    assert (copied.status_code, copied.headers["content-length"], copied.text) == (200, "0", "")
    streamed = cluster.ask("POST", "/api/create", json={"model": "wire3", "from": "small:1b"})
    assert streamed.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(each)["status"] for each in streamed.text.splitlines()][-2:] == ["writing manifest", "success"]
    refused = cluster.ask("POST", "/api/create", json={"model": "wire4"})
    assert (refused.status_code, refused.headers["content-type"]) == (400, "application/json")
    assert refused.json() == {"error": "neither 'from' or 'files' was specified"}
    for name in ("wire", "wire2"):
        assert cluster.ask("DELETE", "/api/delete", json={"name": name}).text == ""
    gone = cluster.ask("DELETE", "/v1/models/wire3")
    assert gone.json() == {"id": "wire3", "object": "model", "deleted": True}
    again = cluster.ask("DELETE", "/v1/models/wire3")
    assert (again.status_code, again.json()["error"]["type"]) == (404, "not_found_error")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "/api/pull", b"", 400, "missing request body"),
        ("POST", "/api/pull", b"[]", 400, "json: cannot unmarshal array into Go value of type api.PullRequest"),
        ("POST", "/api/pull", b"{}", 400, "invalid model name"),
        ("POST", "/api/pull", b'{"model":"../../etc/passwd"}', 400, "invalid model name"),
        ("POST", "/api/push", b"{}", 400, "model is required"),
        ("DELETE", "/api/delete", b'{"model":"a b"}', 400, 'name "a b" is invalid'),
        ("POST", "/api/copy", b'{"source":"small:1b","destination":""}', 400, 'destination "" is invalid'),
        ("POST", "/api/pull", b'{"model":"gpt-oss:120b-cloud"}', 400, "would be served by somebody else"),
        ("POST", "/api/create", b'{"model":"x","from":"y","remote_host":"h"}', 400, "would be served by somebody else"),
        ("POST", "/api/create", b'{"model":"x","system":"' + 2**20 * b"a" + b'"}', 413, "larger than 1048576 bytes"),
        ("POST", "/api/blobs/sha256:nonsense", b"", 400, "invalid digest format"),
        ("DELETE", "/api/delete", b'{"model":"kept:1b"}', 409, "is named in cluster.yaml (tiers.small)"),
        ("POST", "/api/create", b'{"model":"kept:1b","from":"small:1b"}', 409, "made or copied needs another name"),
        ("POST", "/api/copy", b'{"source":"small:1b","destination":"KEPT:1b"}', 409, "needs another name"),
    ],
)
def test_what_cannot_be_is_refused(
    cluster: Cluster, method: str, path: str, body: bytes, status: int, error: str
) -> None:
    reply = cluster.ask(method, path, content=body)
    assert reply.status_code == status, reply.text
    assert error in reply.json()["error"]
    assert "kept:1b" in cluster.names()[0]


def test_a_file_that_is_not_what_it_is_called_is_nowhere(cluster: Cluster) -> None:
    digest = f"sha256:{hashlib.sha256(b'right').hexdigest()}"
    reply = cluster.ask("POST", f"/api/blobs/{digest}", content=b"wrong")
    assert reply.status_code == 400
    assert "digest mismatch" in reply.json()["error"]
    assert cluster.ask("HEAD", f"/api/blobs/{digest}").status_code == 404
    assert cluster.ask("POST", f"/api/blobs/{digest}", content=b"right").status_code == 201
    assert cluster.ask("HEAD", f"/api/blobs/{digest}").status_code == 200
    assert cluster.ask("POST", f"/api/blobs/{digest}", content=b"right").status_code == 200


def test_a_large_file_passes_through_without_being_held(cluster: Cluster) -> None:
    size = 96 * 2**20

    def content() -> Iterator[bytes]:
        for _ in range(size // 2**20):
            yield bytes(2**20)

    digest = hashlib.sha256()
    for each in content():
        digest.update(each)
    gateway = unit_pid(cluster.up.state, "gateway-0")
    peak = _high_water(gateway)
    reply = cluster.ask("POST", f"/api/blobs/sha256:{digest.hexdigest()}", content=content())
    assert reply.status_code == 201, reply.text
    assert _high_water(gateway) - peak < size // 3


def _high_water(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024


# --- ends ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A pull there takes five seconds; the last test ends a server."""
    needs_redis()
    with ExitStack() as stack:
        yield started(stack, tmp_path_factory.mktemp("slow"), pull_bandwidth_bytes_s=1e8, speed=2.0)


def test_a_controller_that_is_killed_within_a_pull_costs_its_caller_nothing(slow: Cluster) -> None:
    told: list[dict[str, Any]] = []
    halfway = threading.Event()

    def pull() -> None:
        for line in slow.ask_stream("/api/pull", {"model": "later:8b"}):
            told.append(line)
            if line.get("completed", 0) > 10**8:
                halfway.set()

    caller = threading.Thread(target=pull)
    caller.start()
    assert halfway.wait(TIMEOUT_S)
    os.kill(unit_pid(slow.up.state, "controller"), signal.SIGKILL)
    caller.join(TIMEOUT_S)
    assert told[-1] == {"status": "success"}
    assert "later:8b" in slow.names()[0] & slow.names()[1]


def test_a_caller_that_leaves_ends_no_pull(slow: Cluster) -> None:
    with closing(slow.ask_stream("/api/pull", {"model": "more:8b"})) as lines:
        assert next(lines) == {"status": "pulling manifest"}
    until(lambda: "more:8b" in slow.names()[0] & slow.names()[1], "both have it")
    until(lambda: "more:8b" in slow.listed(), "it is listed")


def test_a_server_that_dies_within_a_pull_is_named_and_the_other_has_the_model(slow: Cluster) -> None:
    lines = []
    for each in slow.ask_stream("/api/pull", {"model": "last:8b"}):
        lines.append(each)
        if each.get("completed", 0) > 10**8:
            slow.two.kill()
    assert "pull of last:8b failed on 1 of 2 nodes: two: " in lines[-1]["error"]
    assert lines[-1]["error"].endswith("done on one")


# --- instances of our own --------------------------------------------------------------------------------------------


def test_in_a_fleet_of_our_own_a_pull_brings_a_model_to_every_node_and_the_settings_say_what_is_served(
    tmp_path: Path,
) -> None:
    needs_redis()
    nodes = [{"name": name, "simulate": "1x RTX 4090"} for name in ("gpu-1", "gpu-2")]
    config = tmp_path / "cluster.yaml"
    models = {"llama3.2:1b": {"replicas": 2, "hosts": 2}}
    told = {"nodes": nodes, "models": models, "keys": KEYS, "gateway": {"workers": 1}}
    write_whole(config, yaml.safe_dump(told), mode=0o600)
    up = Up(tmp_path / "state", config=config)
    try:
        up.wait_until_ready()
        client = ollama.Client(up.endpoint, headers=_bearer(BOSS), timeout=TIMEOUT_S)
        *told, last = client.pull("all-minilm:22m", stream=True)
        assert last.status == "success"
        on_every_node = "all-minilm:22m is on every node; to have it served, name it under `models` in cluster.yaml"
        assert told[-1].status == on_every_node
        status = httpx.get(f"{up.endpoint}/status.json", headers=_bearer(ASKER), timeout=TIMEOUT_S).json()
        instances = [each for pool in status["pools"] for each in pool["instances"]]
        assert {each["node"] for each in instances} == {"gpu-1", "gpu-2"}
        with pytest.raises(ollama.ResponseError, match=r"is named in cluster\.yaml"):
            client.delete("llama3.2:1b")
        assert client.delete("all-minilm:22m").status == "success"
        with pytest.raises(ollama.ResponseError, match="not found"):
            client.delete("all-minilm:22m")
    finally:
        up.close()
