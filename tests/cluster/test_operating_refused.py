"""What commands refuse at once that nobody would heed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.app.operating import refuse_given
from orchestrator.core.errors import HostError
from orchestrator.core.model import Snapshot
from tests.gateway.played import pool_of


def test_servers_that_somebody_else_runs_are_neither_drained_nor_restarted_from_here():
    ours = pool_of("m", [1])
    theirs = replace(ours, instances=tuple(replace(each, is_given=True) for each in ours.instances))
    for name in ("m-0", "sim"):
        refuse_given(Snapshot(1, 0, (ours,)), name)
        with pytest.raises(HostError, match="its server is somebody else's"):
            refuse_given(Snapshot(1, 0, (theirs,)), name)
    refuse_given(Snapshot(1, 0, (theirs,)), "m-1")
    refuse_given(None, "m-0")
