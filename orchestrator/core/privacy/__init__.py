"""Private matter in a text: what it is, where it stands, and how far a text with it may go."""

from orchestrator.core.privacy.classes import DEFAULT_CLASSES, Privacy, classify, strictest
from orchestrator.core.privacy.finding import Found, Kind, find

__all__ = ["DEFAULT_CLASSES", "Found", "Kind", "Privacy", "classify", "find", "strictest"]
