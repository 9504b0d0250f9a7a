"""The settings' privacy section as a value, its files of words read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestrator.core.errors import SettingsError
from orchestrator.core.privacy import DEFAULT_CLASSES, Kind, Privacy, Words, WordsError
from orchestrator.core.privacy import Rules as PrivacyRules
from orchestrator.settings.privacy import PrivacySettings


def privacy_rules(settings: PrivacySettings) -> PrivacyRules:
    """What makes a call private. Raises SettingsError where a file of words is not valid."""
    classes = {Kind(kind): Privacy(privacy) for kind, privacy in settings.classes.items()}
    return PrivacyRules(
        default=Privacy(settings.default),
        detects=settings.detect,
        classes={**DEFAULT_CLASSES, **classes},
        more=Privacy(settings.attachments),
        most_letters=settings.search_letters,
        words=words_from(settings.words),
    )


def words_from(paths: Iterable[Path]) -> Words:
    """All words of the files. Raises SettingsError with the mistakes of all of them."""
    lines: list[str] = []
    problems: list[str] = []
    for path in paths:
        try:
            found = path.read_text(encoding="utf-8-sig").splitlines()
            Words(found)  # so that a mistake names its own file and line
        except (OSError, UnicodeDecodeError) as why:
            problems.append(f"{path}: cannot be read: {why}")
        except WordsError as why:
            problems.append(f"{path}: {why}")
        else:
            lines += found
    if problems:
        raise SettingsError("\n".join(problems))
    return Words(lines)
