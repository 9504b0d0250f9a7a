"""Files of calibrations, written and read."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import orjson

from orchestrator.core.confidence import Calibration, read, told
from orchestrator.core.errors import SettingsError
from orchestrator.whole_file import write_whole


def write_calibration(path: Path, made: Calibration, made_of: str) -> None:
    write_whole(path, orjson.dumps(told(made, made_of=made_of), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def calibration_from(path: Path) -> Calibration:
    """The calibration in a file. Raises SettingsError with the file's name."""
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError as why:
        raise SettingsError(f"{path}: cannot be read: {why.strerror}") from why


@cache
def _read(path: Path, changed_ns: int) -> Calibration:
    try:
        content = orjson.loads(path.read_bytes())
        return read(content if isinstance(content, dict) else {})
    except orjson.JSONDecodeError as why:
        raise SettingsError(f"{path}: is not JSON: {why}") from why
    except ValueError as why:
        raise SettingsError(f"{path}: {why}; `ollamactl route calibrate` writes such files") from why
