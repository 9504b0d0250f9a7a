"""Drawing on the terminal: one console for answers, one for errors."""

from __future__ import annotations

import sys
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

console = Console()
errors = Console(stderr=True)


def fail(text: str, code: int) -> NoReturn:
    """End the program with an error text and its exit code."""
    errors.print(f"[red]error:[/red] {escape(text)}", highlight=False, soft_wrap=True)
    sys.exit(code)
