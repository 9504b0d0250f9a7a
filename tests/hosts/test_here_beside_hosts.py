"""This machine as one more node of a fleet of hosts that runs already."""

from __future__ import annotations

from tests.hosts.test_deploy import SMALL, TINY, Operator, operator, place

__all__ = ["operator", "place"]


def test_this_machine_joins_hosts_that_serve_and_leaves_them_again(operator: Operator):
    hosts = {SMALL: {"replicas": 2, "hosts": 2}}
    nodes = [operator.node(each) for each in operator.net.machines.values()]
    operator.settings(hosts, nodes=nodes)
    operator("deploy", "--yes")
    operator.settings({**hosts, TINY: {"on_nodes": ["here"]}}, nodes=[*nodes, {"name": "here"}])
    operator("deploy", "--yes")
    (here,) = operator.instances(TINY)
    assert (here["node"], here["host"], here["state"]) == ("here", "127.0.0.1", "serving")
    assert {each["node"] for each in operator.instances(SMALL)} == {"gpu-1", "gpu-2"}
    assert operator.asks(TINY) == operator.asks(SMALL) == 200
    assert "nothing to do: 3 as they are" in operator("deploy", "--yes")
    operator.settings(hosts)
    operator("deploy", "--yes")
    assert operator.asks(TINY) == 404
    assert operator.asks(SMALL) == 200
