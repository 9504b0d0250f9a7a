"""What reading an engine's frames raises where one has another form than it was promised to have.

Each of its values may be of any type: no schema holds between an engine and its callers. To look at every one first
would cost each frame what nearly none needs; whichever is odd, it is the same finding: this is no answer.
"""

from __future__ import annotations

from typing import Final

WRONG_FORM: Final = (AttributeError, LookupError, OverflowError, TypeError, ValueError)
