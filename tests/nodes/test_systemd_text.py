"""What is written on hosts for their instances: names, environments, the firewall."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fleet.made import UNIT_PREFIX
from orchestrator.nodes.onhost.units import UNIT, unit_of
from orchestrator.nodes.systemd_text import (
    PREFIX,
    environment_text,
    instance_of,
    name_of,
    render_firewall,
    render_template,
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,79}", fullmatch=True)


def test_units_of_instances_begin_as_the_fleet_names_them():
    assert PREFIX == UNIT_PREFIX


def test_the_name_of_an_instance_can_be_read_and_typed_on_its_host():
    assert unit_of(instance_of("engine-gpu-1-gpu0-llama3.2-3b-0")) == "ollama@gpu-1-gpu0-llama3.2-3b-0.service"


@given(NAMES)
def test_every_units_name_comes_back_from_its_instance(name):
    instance = instance_of(PREFIX + name)
    assert name_of(instance) == PREFIX + name
    assert set(instance) & set("\\+*?[/ ") == set()  # a pattern to EnvironmentFile=, or a folder
    named = UNIT.fullmatch(unit_of(instance))
    assert named is not None
    assert named[1] == instance


@pytest.mark.parametrize("name", ["gpu-1-gpu0-llama3.2-3b-0", "sim-cpu-qwen3_0.6b-12", "a@b"])
def test_systemd_takes_an_instances_name_as_it_is(name):
    program = shutil.which("systemd-escape")
    if program is None:
        pytest.skip("systemd-escape is not installed")
    mangled = subprocess.run([program, "--mangle", unit_of(name)], capture_output=True, text=True, check=True).stdout
    assert mangled.strip() == unit_of(instance_of(PREFIX + name))


@pytest.mark.parametrize("name", ["redis", "engine-", "engine-" + "x" * 300])
def test_what_is_no_instances_unit_has_no_name_on_a_host(name):
    with pytest.raises(ValueError, match="unit"):
        instance_of(name)


@pytest.mark.parametrize("environment", [{"A B": "1"}, {"1A": "1"}, {"": "1"}, {"A": "a\0b"}])
def test_what_systemd_would_leave_out_of_an_environment_is_refused(environment):
    with pytest.raises(ValueError, match=r"environment variable|null byte"):
        environment_text(environment)


def test_an_environment_is_a_line_a_variable_in_the_same_order_always():
    assert environment_text({"B": 'x"$', "A": "1"}) == 'A="1"\nB="x\\"\\$"\n'


def test_the_template_has_the_folder_of_models_whatever_is_in_its_name():
    assert "\nBindPaths=/srv/models\n" in render_template("ollama", "/srv/models")
    assert '\nBindPaths="/srv/50%% \\"of\\" them\\: all"\n' in render_template("ollama", '/srv/50% "of" them: all')
    with pytest.raises(ValueError, match="backslash"):
        render_template("ollama", "/srv/a\\b")


def test_the_firewall_lets_gateways_in_to_the_instances_ports_alone():
    text = render_firewall(["10.0.0.0/24", "10.0.0.7", "fd00::/8"], (11500, 11599))
    assert "elements = { 10.0.0.0/24, 10.0.0.7/32 }" in text
    assert "elements = { fd00::/8 }" in text
    assert "tcp dport 11500-11599 ip6 saddr @gateways6 accept" in text
    assert text.rstrip().endswith("tcp dport 11500-11599 drop\n\t}\n}")
    assert "@gateways6" not in render_firewall(["10.0.0.7"], (11500, 11500))
