"""A node is added to `cluster.yaml` and everything else stays as somebody wrote it."""

from __future__ import annotations

import pytest

from orchestrator.core.errors import SettingsError
from orchestrator.settings import load
from orchestrator.settings.adding import add_node, with_node
from orchestrator.settings.positions import read

NODE = {"name": "gpu-3", "address": "10.0.0.7", "user": "ops"}
MODELS = "models: {llama3.2:3b: {}}\n"
WRITTEN = """\
# ours
nodes:
  - name: gpu-1   # the old one
    address: 10.0.0.5
  # a remark on what follows
  - {name: gpu-2, address: "10.0.0.6:2222"}

# what it serves
models:
  llama3.2:3b: {}
"""


def test_a_node_comes_last_and_comments_and_order_stay():
    before, after = WRITTEN.split("\n\n")
    assert with_node(WRITTEN, NODE) == (f"{before}\n  - name: gpu-3\n    address: 10.0.0.7\n    user: ops\n\n{after}")


@pytest.mark.parametrize(
    "text",
    [
        WRITTEN,
        WRITTEN.replace("\n", "\r\n"),
        MODELS,
        MODELS.rstrip(),
        f"nodes:\n{MODELS}",
        f"nodes:   # none yet\n{MODELS}",
        f"nodes: []\n{MODELS}",
        f"{MODELS}nodes: [ ]  # none",
        f"{MODELS}nodes:\n- name: a\n  address: b",
        f"nodes: [{{name: a, address: b}}, {{name: c, address: d,}}]\n{MODELS}",
        f"nodes:\n    -   name: a\n        address: b\n{MODELS}",
        f"nodes:\n  -\n    name: a\n    address: b\n{MODELS}",
    ],
)
def test_however_nodes_are_written_the_file_says_what_it_said_and_one_node_more(tmp_path, text):
    path = tmp_path / "cluster.yaml"
    path.write_bytes(text.encode())
    before = read(text).value
    after = add_node(path, NODE)
    assert load(path) == after
    assert read(path.read_text()).value == {**before, "nodes": [*(before.get("nodes") or ()), NODE]}
    assert (after.nodes[-1].name, after.nodes[-1].address, after.nodes[-1].user) == ("gpu-3", "10.0.0.7", "ops")
    assert remarks(path.read_text()) == remarks(text)


def remarks(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


def test_a_missing_file_is_made_and_is_valid(tmp_path):
    path = tmp_path / "cluster.yaml"
    assert [each.name for each in add_node(path, NODE).nodes] == ["gpu-3"]
    assert load(path).models


@pytest.mark.parametrize("name", ["no", "1", "null", "0x10", "off"])
def test_a_name_that_looks_like_something_else_stays_a_name(tmp_path, name):
    path = tmp_path / "cluster.yaml"
    assert add_node(path, {**NODE, "name": name}).nodes[-1].name == name


@pytest.mark.parametrize(
    "text",
    [
        "instances: [{url: 'http://10.0.0.9:11434'}]\n",
        f"nodes:\n  - name: gpu-3\n    address: x\n{MODELS}",
        "models: {a: {}}\n...\n",
    ],
)
def test_what_would_not_be_valid_is_not_written(tmp_path, text):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError):
        add_node(path, NODE)
    assert path.read_text() == text
    assert [each.name for each in tmp_path.iterdir()] == ["cluster.yaml"]


def test_the_files_mode_stays(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(MODELS)
    path.chmod(0o600)
    add_node(path, NODE)
    assert path.stat().st_mode & 0o777 == 0o600


def test_secrets_of_a_start_need_not_be_set_where_a_node_is_added(tmp_path, monkeypatch):
    monkeypatch.delenv("W_KEY", raising=False)
    path, text = tmp_path / "cluster.yaml", f"{MODELS}keys: [{{name: w, secret: 'env:W_KEY'}}]\n"
    path.write_text(text)
    assert [each.name for each in add_node(path, NODE).nodes] == ["gpu-3"]
    assert path.read_text().startswith(text)
    with pytest.raises(SettingsError, match="W_KEY"):
        load(path)
