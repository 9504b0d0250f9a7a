"""The inventory: cluster.yaml as Ansible sees it. No host is spoken to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.nodes.onhost.accounts import OURS
from orchestrator.nodes.systemd_text import render_firewall, render_template
from tests.ansible.playing import ANSIBLE, Control

MODELS = 'models: {"llama3.2:3b": }\n'


def asked(folder: Path, text: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "cluster.yaml").write_text(text)
    given = {"PATH": os.environ["PATH"], "HOME": str(folder), "OLLAMACTL_CONFIG": str(folder / "cluster.yaml")}
    program = [sys.executable, str(ANSIBLE / "inventory" / "cluster.py"), *(words or ("--list",))]
    return subprocess.run(program, env=given | environment, capture_output=True, text=True, check=False)


def told(folder: Path, text: str, **environment: str) -> dict:
    done = asked(folder, text, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_hosts_are_in_the_groups_that_the_file_gives_them_and_one_host_has_one_name(tmp_path):
    seen = told(
        tmp_path,
        MODELS
        + "nodes: [{name: gpu-1, address: 10.0.0.7:2222, user: ops, key: id}, {name: here}]\n"
        + "redis: sentinel://10.0.0.7,10.0.0.8:26380,127.0.0.1/mine\nredis_password: env:REDIS_PASSWORD\n"
        + 'nginx: {gateways: ["10.0.0.8:11434", "localhost:11434"]}\n',
    )
    groups = {name: seen[name]["hosts"] for name in ("nodes", "redis", "gateways", "nginx", "monitoring")}
    assert groups == {
        "nodes": ["gpu-1"],
        "redis": ["gpu-1", "10.0.0.8"],
        "gateways": ["10.0.0.8"],
        "nginx": [],
        "monitoring": [],
    }
    node = seen["_meta"]["hostvars"]["gpu-1"]
    assert (node["ansible_host"], node["ansible_port"], node["ansible_user"]) == ("10.0.0.7", 2222, "ops")
    assert node["ansible_ssh_private_key_file"] == str(tmp_path / "id")
    assert seen["redis"]["vars"] == {"redis_master_name": "mine", "redis_sentinel": True}


def test_nodes_get_the_texts_and_folders_that_deploy_would_write(tmp_path):
    seen = told(
        tmp_path,
        MODELS
        + "nodes: [{name: gpu-1, address: 127.0.0.1, models_dir: /srv/models}]\n"
        + 'deploy: {user: olm, ollama: bin/ollama, ports: [12000, 12009], gateways: ["10.0.0.0/24"], tls: true}\n',
    )
    node, shared = seen["_meta"]["hostvars"]["gpu-1"], seen["nodes"]["vars"]
    assert node["ollama_unit"] == render_template("olm", "/srv/models")
    assert node["firewall_text"] == render_firewall(["10.0.0.0/24", "127.0.0.1"], (12000, 12009))
    assert shared["ollama_program"] == str(tmp_path / "bin" / "ollama")
    assert shared["ollama_packages"] == ["stunnel4"]
    assert shared["ollama_folders"] == {path: f"{mode:04o}" for path, mode in OURS.items()}


def test_without_gateways_only_this_machine_may_reach_the_instances(tmp_path):
    seen = told(tmp_path, MODELS + "nodes: [{name: gpu-1, address: 127.0.0.1}]\n")
    assert "elements = { 127.0.0.1/32 }" in seen["_meta"]["hostvars"]["gpu-1"]["firewall_text"]


def test_a_host_that_nobody_finds_the_way_to_is_told_of_where_its_rules_would_be_written(tmp_path):
    seen = told(tmp_path, MODELS + "nodes: [{name: gpu-1, address: gpu-1.invalid}]\n")
    node = seen["_meta"]["hostvars"]["gpu-1"]
    assert node["firewall_text"] == ""
    assert node["firewall_problem"].startswith("gpu-1.invalid: no way to it from here: ")


def test_host_keys_that_were_pinned_hold_for_ansible_too(tmp_path):
    (tmp_path / "known_hosts").write_text("10.0.0.7 ssh-ed25519 AAAA\n")
    seen = told(tmp_path, MODELS + "nodes: [{name: gpu-1, address: 10.0.0.7}]\n", OLLAMACTL_STATE=str(tmp_path))
    words = seen["_meta"]["hostvars"]["gpu-1"]["ansible_ssh_common_args"]
    assert words == f"-o 'UserKnownHostsFile=\"{tmp_path}/known_hosts\"' -o StrictHostKeyChecking=yes"


def test_secrets_that_only_gateways_have_are_not_needed_and_not_told(tmp_path):
    keys = "keys: [{name: a, secret: env:KEY_A}, {name: b, secret: env:KEY_B}]\n"
    secret = "of-the-operators-environment"
    seen = asked(tmp_path, MODELS + keys, KEY_A=secret)
    assert seen.returncode == 0, seen.stderr
    assert secret not in seen.stdout
    assert list(json.loads(seen.stdout)["all"]["vars"]["ollamactl_environment"]) == ["KEY_B"]


@pytest.mark.parametrize("text", ["modells: {}\n", "nodes: [", ""])
def test_a_wrong_file_is_told_of_with_its_place(tmp_path, text):
    done = asked(tmp_path, text)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"{tmp_path}/cluster.yaml:1:")


def test_a_wrong_file_stops_the_playbook_whatever_other_inventories_there_are(tmp_path):
    (tmp_path / "cluster.yaml").write_text("modells: {}\n")
    (tmp_path / "hosts.yml").write_text("nginx: {hosts: {10.0.0.2: }}\n")
    inventories = ("--inventory", "inventory", "--inventory", str(tmp_path / "hosts.yml"))
    done = Control(tmp_path).run("ansible-playbook", *inventories, "site.yml", "--syntax-check")
    assert done.returncode != 0
    assert f"{tmp_path}/cluster.yaml:1:1: modells: no such setting" in done.stderr
