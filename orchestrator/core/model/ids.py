"""Ids: texts that are not to be taken for each other."""

from __future__ import annotations

from typing import NewType

NodeName = NewType("NodeName", str)
InstanceId = NewType("InstanceId", str)
PoolName = NewType("PoolName", str)
LeaseId = NewType("LeaseId", str)
