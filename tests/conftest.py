"""What holds for every test."""

from __future__ import annotations

import shutil
import signal

import pytest
from hypothesis import HealthCheck, settings

# No test is about a clock: a machine that others use is slow when it pleases.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_configure() -> None:
    """Ended by SIGTERM, as by Ctrl-C: fixtures take down what they put up.

    What a suite in the background is told to ignore (`nohup`, `&`), programs under test would ignore, too.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `ollama` are this suite's only where there is a real one; the closing line counts those left out."""
    if shutil.which("ollama") is not None:
        return
    left_out = [each for each in items if each.get_closest_marker("ollama")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [each for each in items if each not in left_out]
