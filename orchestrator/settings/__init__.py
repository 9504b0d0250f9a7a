"""Settings as the rest of the package uses them. `load` is the one way in from a file; errors name line and field."""

from orchestrator.settings.access import KeySettings
from orchestrator.settings.answering import CacheSettings, LimitSettings
from orchestrator.settings.file import load, parse
from orchestrator.settings.hosts import InstanceSettings, ModelSettings, NodeSettings, SshSettings
from orchestrator.settings.model import ClusterSettings, GatewaySettings
from orchestrator.settings.outside import ProviderSettings
from orchestrator.settings.routing import BudgetSettings, PriceSettings, RouteSettings, TierSettings
from orchestrator.settings.section import Section
from orchestrator.settings.show import json_schema, show

__all__ = [
    "BudgetSettings",
    "CacheSettings",
    "ClusterSettings",
    "GatewaySettings",
    "InstanceSettings",
    "KeySettings",
    "LimitSettings",
    "ModelSettings",
    "NodeSettings",
    "PriceSettings",
    "ProviderSettings",
    "RouteSettings",
    "Section",
    "SshSettings",
    "TierSettings",
    "json_schema",
    "load",
    "parse",
    "show",
]
