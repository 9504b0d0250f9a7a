"""atheris: bytes that reach code which no bytes before them have reached, until some do what none may.

`python -m tests.security.fuzz TARGET [FOLDER …] [-runs=…] [-max_total_time=…]`: libFuzzer's own options. What it finds
belongs into `corpora/TARGET`, where the tests throw it at every later version.
"""

from __future__ import annotations

import sys

import atheris

# Only what reads bytes is watched: all the rest would be slower and say nothing.
WATCHED = ["orchestrator.core.dialects", "orchestrator.gateway.connection", "orchestrator.gateway.request"]

with atheris.instrument_imports(include=WATCHED):
    from tests.security.fuzzing import TARGETS


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
