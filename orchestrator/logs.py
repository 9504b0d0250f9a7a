"""Logging of this process: one line an event to stderr, and in a gateway none that says what somebody's call said."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any


class _Record(logging.LogRecord):
    """A line of a log, in which no error says what somebody's call said.

    Errors of ours know what of them is fit for a log (`in_log`). Those of others may quote what they are about: of one
    that was not expected, its kind and where it was raised are told.
    """

    quote: Callable[[str], str] | None = None

    def getMessage(self) -> str:
        text = self.msg if isinstance(self.msg, str) else str(_fit(self.msg))
        if self.name == "asyncio":  # behind its first line, it tells of tasks with all that they were called with
            text = text.partition("\n")[0]
        return text % tuple(map(_fit, self.args)) if isinstance(self.args, tuple) and self.args else text

    def told(self) -> str:
        """Where the error that this line is about was raised, its kind, and without a word of it."""
        if not self.exc_info or self.exc_info[1] is None:
            return ""
        kind, error, at = self.exc_info
        text = error.in_log if hasattr(error, "in_log") else _quoted(str(error))
        frames = "".join(traceback.format_tb(at)) if at is not None else ""
        return f"{frames}{kind.__qualname__ if kind else ''}{text and ': '}{text}"


def careful_record(*args: Any, **more: Any) -> logging.LogRecord:
    """For `logging.setLogRecordFactory`: every line of this process is a careful one, whoever's it is."""
    record = _Record(*args, **more)
    record.exc_text = record.told() or None  # what formatters take instead of making a text of their own
    return record


def _fit(value: object) -> object:
    """An argument of a line, if it is an error as it may be read there."""
    if not isinstance(value, BaseException):
        return value
    if isinstance(value, OSError):
        return str(value)
    text = str(value.in_log) if hasattr(value, "in_log") else type(value).__qualname__
    quoted = _quoted(getattr(value, "quoted", ""))
    return f"{text} ({quoted})" if quoted else text


def _quoted(text: str) -> str:
    return _Record.quote(text) if _Record.quote is not None and text else ""


def texts_in_logs(quote: Callable[[str], str] | None) -> None:
    """What errors quote is said in logs as `quote` makes it; None: not at all."""
    _Record.quote = staticmethod(quote) if quote is not None else None


def log_to_stderr(name: str, *, has_calls: bool = False) -> None:
    """One line an event, to stderr: the keeper keeps it in the unit's log file. `has_calls`: errors may quote them."""
    if has_calls:
        logging.setLogRecordFactory(careful_record)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format=f"%(asctime)s {name} %(levelname)s %(name)s: %(message)s"
    )
    for chatty in ("aiohttp.access", "asyncssh"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
