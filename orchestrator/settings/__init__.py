"""Settings as the rest of the package uses them. `load` is the one way in from a file; errors name line and field."""

from orchestrator.settings.file import load, parse
from orchestrator.settings.model import (
    CacheSettings,
    ClusterSettings,
    GatewaySettings,
    InstanceSettings,
    KeySettings,
    LimitSettings,
    ModelSettings,
    NodeSettings,
    RouteSettings,
    Section,
    SshSettings,
    TierSettings,
)
from orchestrator.settings.show import json_schema, show

__all__ = [
    "CacheSettings",
    "ClusterSettings",
    "GatewaySettings",
    "InstanceSettings",
    "KeySettings",
    "LimitSettings",
    "ModelSettings",
    "NodeSettings",
    "RouteSettings",
    "Section",
    "SshSettings",
    "TierSettings",
    "json_schema",
    "load",
    "parse",
    "show",
]
