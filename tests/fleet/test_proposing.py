"""What `plan` and `deploy` propose, from what hosts tell: nothing is moved that nobody asked to move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from orchestrator.app import deployments
from orchestrator.app.paths import StatePaths
from orchestrator.app.proposing import Eyes, Proposal, propose
from orchestrator.core.difference import Kind
from orchestrator.core.errors import Barrier, HostError, SettingsError
from orchestrator.core.model import Accelerator, NodeFacts, NodeName
from orchestrator.fleet.inventory import Sight, unseen
from orchestrator.fleet.made import MARK, UNIT_PREFIX, Made, marked
from orchestrator.nodes.keeper_units import Unit
from orchestrator.nodes.ssh import HostKeyError, SshError
from orchestrator.settings import ClusterSettings, NodeSettings

GIB = 2**30
SMALL, FULL = "llama3.2:3b", "llama3.1:8b"


class Hosts:
    """Hosts of two cards each, as they would tell of themselves."""

    def __init__(self, paths: StatePaths, *names: str) -> None:
        self.paths, self.names = paths, names
        self.silent: set[str] = set()
        self.refusing: dict[str, HostError] = {}
        self.lacks: dict[str, tuple[str, ...]] = {}
        self.marks: dict[str, dict[str, str]] = {name: {} for name in names}
        self.program: str | None = None

    def settings(self, models: Mapping[str, object], *names: str) -> ClusterSettings:
        nodes = [{"name": each, "address": f"{each}.example"} for each in names or self.names]
        return ClusterSettings.model_validate({"nodes": nodes, "models": models})

    async def proposed(self, settings: ClusterSettings, *limit: str) -> Proposal:
        return await propose(settings, self.paths, Eyes(self._look, self._marks, self._base, self.program), limit)

    def run(self, proposal: Proposal) -> None:
        """As if it had been deployed: the deployment is written, and hosts run what it says."""
        current = deployments.current(self.paths)
        made = proposal.deployment(current.number + 1 if current else 1, 1000, "ops@desk")
        deployments.write(self.paths, made)
        for name in set(self.names) - self.silent:
            self.marks[name] = {}
        for each in made.placements:
            if each.node not in self.silent:
                unit = Unit(UNIT_PREFIX + each.instance, ("ollama",))
                env = marked(unit, Made(each, 11500, made.terms[each.pool], False)).env
                self.marks[each.node][unit.name] = env[MARK]
        self.lacks = {}

    async def _look(self, node: NodeSettings) -> Sight:
        name = NodeName(node.name)
        if name in self.silent:
            return Sight(name, None, f"{name}: {node.address} did not answer within 10 s")
        if name in self.refusing:
            return unseen(name, self.refusing[name])
        cards = tuple(
            Accelerator(f"GPU-{name}-{index}", index, "NVIDIA GeForce RTX 4090", 24 * GIB, 24 * GIB, 0)
            for index in (0, 1)
        )
        return Sight(name, NodeFacts(name, name, "cpu", 8, 64 * GIB, 60 * GIB, 500 * GIB, cards))

    async def _marks(self, node: NodeSettings) -> Mapping[str, str]:
        return self.marks[node.name]

    async def _base(self, node: NodeSettings) -> Sequence[str]:
        return self.lacks.get(node.name, ())


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts(StatePaths(tmp_path), "gpu-1", "gpu-2")


def kinds(proposal: Proposal) -> list[Kind]:
    return [each.kind for each in proposal.difference.changes]


async def test_what_was_deployed_is_no_difference_and_what_a_base_lacks_is_one(hosts: Hosts):
    settings = hosts.settings({SMALL: {"replicas": 3, "hosts": 2}})
    hosts.lacks = {"gpu-1": ("user: ollama",)}
    first = await hosts.proposed(settings)
    assert kinds(first) == [Kind.CREATE] * 3
    assert first.base == {"gpu-1": ("user: ollama",)}
    hosts.run(first)
    assert (await hosts.proposed(settings)).is_empty
    hosts.lacks = {"gpu-2": ("firewall: gone",)}
    again = await hosts.proposed(settings)
    assert again.difference.is_empty
    assert not again.is_empty


async def test_what_runs_is_adopted_where_the_deployments_were_lost(hosts: Hosts):
    settings = hosts.settings({SMALL: {}})
    hosts.run(await hosts.proposed(settings))
    (hosts.paths.root / "deployments" / "00000001.json").unlink()
    again = await hosts.proposed(settings)
    assert again.difference.is_empty
    assert not again.is_empty, "the controller must be told what to keep"


async def test_a_silent_host_keeps_its_instances_and_they_count(hosts: Hosts):
    settings = hosts.settings({SMALL: {"replicas": 4, "hosts": 2}})
    first = await hosts.proposed(settings)
    hosts.run(first)
    hosts.silent = {"gpu-2"}
    silent = await hosts.proposed(settings)
    assert kinds(silent) == [Kind.KEEP] * 4
    assert silent.is_empty
    assert silent.unreachable == {"gpu-2": "gpu-2: gpu-2.example did not answer within 10 s"}
    assert any(note.startswith("gpu-2 is left as it is, nothing is moved away from it") for note in silent.notes)
    more = await hosts.proposed(hosts.settings({SMALL: {"replicas": 4, "hosts": 2}, FULL: {}}))
    assert sorted(kinds(more)) == [Kind.CREATE, *[Kind.KEEP] * 4]
    assert [each.nodes for each in more.difference.of(Kind.CREATE)] == [{"gpu-1"}]


async def test_a_host_taken_out_of_the_settings_loses_its_instances_to_others(hosts: Hosts):
    hosts.run(await hosts.proposed(hosts.settings({SMALL: {"replicas": 2, "hosts": 2}})))
    left = await hosts.proposed(hosts.settings({SMALL: {"replicas": 2}}, "gpu-1"))
    assert sorted(kinds(left)) == [Kind.CREATE, Kind.KEEP, Kind.REMOVE]
    assert left.difference.of(Kind.REMOVE)[0].reason == "gpu-2 is not in the settings any more"
    assert any("ollamactl destroy --limit gpu-2" in note for note in left.notes)


async def test_with_limit_the_other_hosts_are_left_as_they_are(hosts: Hosts):
    hosts.run(await hosts.proposed(hosts.settings({SMALL: {"replicas": 2, "hosts": 2}})))
    settings = hosts.settings({SMALL: {"replicas": 2, "hosts": 2, "slots": 4}})
    limited = await hosts.proposed(settings, "gpu-1")
    assert sorted((each.kind, *each.nodes) for each in limited.difference.changes) == [
        (Kind.CHANGE, "gpu-1"),
        (Kind.KEEP, "gpu-2"),
    ]
    with pytest.raises(SettingsError, match="--limit gpu-9: no node of that name; there are gpu-1, gpu-2"):
        await hosts.proposed(settings, "gpu-9")


async def test_another_program_changes_every_instance_and_not_those_of_some_hosts_alone(hosts: Hosts):
    settings = hosts.settings({SMALL: {"replicas": 2, "hosts": 2}})
    hosts.program = "a" * 64
    hosts.run(await hosts.proposed(settings))
    assert (await hosts.proposed(settings)).is_empty
    hosts.program = "b" * 64
    newer = await hosts.proposed(settings)
    assert kinds(newer) == [Kind.CHANGE] * 2
    assert {each.reason for each in newer.difference.changes} == {f"program {'a' * 16} → {'b' * 16}"}
    with pytest.raises(SettingsError, match="also on gpu-2: name that with --limit, too"):
        await hosts.proposed(settings, "gpu-1")


async def test_without_any_host_that_answers_nothing_is_planned(hosts: Hosts):
    hosts.silent = {"gpu-1", "gpu-2"}
    with pytest.raises(HostError, match=r"no host can be reached:\ngpu-1: .*\ngpu-2: "):
        await hosts.proposed(hosts.settings({SMALL: {}}))


@pytest.mark.parametrize("barrier", Barrier)
async def test_hosts_that_all_refuse_alike_are_said_to_do_so(hosts: Hosts, barrier: Barrier):
    hosts.refusing = {name: SshError(name, "a step", "why it does not", barrier) for name in hosts.names}
    with pytest.raises(
        HostError, match=rf"^no host can be {barrier}:\ngpu-1: why it does not\ngpu-2: why it does not$"
    ):
        await hosts.proposed(hosts.settings({SMALL: {}}))


async def test_hosts_that_refuse_are_told_from_those_that_are_silent(hosts: Hosts):
    hosts.silent = {"gpu-1"}
    hosts.refusing = {"gpu-2": HostKeyError("gpu-2", "another key")}
    told = r"^no host can be worked with \(1 cannot be reached, 1 cannot be trusted by its host key\):\ngpu-1: "
    with pytest.raises(HostError, match=told):
        await hosts.proposed(hosts.settings({SMALL: {}}))
