"""site.yml over real SSH: checked, applied, and applied again, on hosts that nobody has touched."""

from __future__ import annotations

import pytest

from orchestrator.app.paths import StatePaths
from orchestrator.app.visits import visits
from orchestrator.settings import parse
from orchestrator.settings.file import read_text
from tests.ansible.conftest import PASSWORD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_check_mode_on_fresh_hosts_tells_what_would_change_and_changes_nothing(checked, world):
    ran, left = checked
    assert set(ran.failed.values()) == {0}, ran.text[-3000:]
    assert all(ran.changed.values()), ran.text
    assert left == ""
    assert "ollama" not in world.node.run("getent", "passwd")


def test_the_playbook_brings_fresh_hosts_to_what_is_asked_for(applied, world):
    assert set(applied.failed.values()) == {0}, applied.text[-3000:]
    assert set(applied.changed) == {"gpu-1", world.rest.address}
    assert PASSWORD not in applied.text


def test_what_it_started_runs_and_answers_callers_through_nginx(applied, world):
    services = ("redis-server", "redis-sentinel", "ollamactl", "nginx", "prometheus")
    assert world.rest.run("systemctl", "is-active", *services, check=False).split() == ["active"] * len(services)
    assert world.rest.run("systemctl", "is-enabled", *services).split() == ["enabled"] * len(services)
    assert world.node.run("systemctl", "is-active", "nvidia-persistenced", "redis-sentinel").split() == ["active"] * 2
    called = f"curl --silent --fail --max-time 5 --header 'Host: ollama.test' http://{world.rest.address}/healthz"
    world.rest.run("timeout", "50", "sh", "-c", f"until {called}; do sleep 0.2; done")
    scraped = "http://127.0.0.1:9090/api/v1/query?query=up%7Bjob=%22ollamactl%22%7D"
    is_up = f"curl --silent '{scraped}' | grep -q '\"1\"\\]'"
    world.rest.run("timeout", "50", "sh", "-c", f"until {is_up}; do sleep 0.2; done")


def test_nobody_but_root_reads_the_secrets(applied, world):
    modes = world.rest.run("stat", "-c", "%U %a", "/etc/ollamactl/environment", "/etc/redis/ollamactl.conf")
    assert modes == "root 600\nroot 640\n"
    assert PASSWORD not in world.rest.run("ps", "-eo", "args")


def test_a_second_run_changes_nothing_even_after_redis_master_moved(again, world):
    assert set(again.failed.values()) == {0}, again.text[-3000:]
    assert again.changes == []
    assert set(again.changed.values()) == {0}


async def test_deploy_has_nothing_to_do_for_the_base(again, world):
    config = world.control.folder / "cluster.yaml"
    settings = parse(read_text(config), str(config), {"OPERATOR_KEY": PASSWORD})
    eyes = (await visits(settings, StatePaths(world.control.folder))).eyes()
    assert await eyes.base(settings.nodes[0]) == []
