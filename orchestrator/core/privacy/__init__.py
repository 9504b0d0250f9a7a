"""Private matter in a text: what it is, where it stands, and how far a text with it may go."""

from orchestrator.core.privacy.classes import DEFAULT_CLASSES, Privacy, class_of, classify, may_leave, strictest
from orchestrator.core.privacy.finding import Found, Kind, find
from orchestrator.core.privacy.judging import Discretion, Rules, judge, redacted
from orchestrator.core.privacy.texts import Texts, texts_of
from orchestrator.core.privacy.words import Words, WordsError

__all__ = [
    "DEFAULT_CLASSES",
    "Discretion",
    "Found",
    "Kind",
    "Privacy",
    "Rules",
    "Texts",
    "Words",
    "WordsError",
    "class_of",
    "classify",
    "find",
    "judge",
    "may_leave",
    "redacted",
    "strictest",
    "texts_of",
]
