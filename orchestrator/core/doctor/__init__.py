"""What is wrong with a cluster before its users notice: checks over facts, each finding with what mends it."""

from orchestrator.core.doctor.checks import check
from orchestrator.core.doctor.seen import (
    Clock,
    Cluster,
    FileLimit,
    Host,
    Loaded,
    OllamaProcess,
    Redis,
    Seen,
    Server,
    Unseen,
)
from orchestrator.core.doctor.told import Finding, Severity, worst

__all__ = [
    "Clock",
    "Cluster",
    "FileLimit",
    "Finding",
    "Host",
    "Loaded",
    "OllamaProcess",
    "Redis",
    "Seen",
    "Server",
    "Severity",
    "Unseen",
    "check",
    "worst",
]
