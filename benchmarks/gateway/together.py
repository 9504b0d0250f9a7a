"""Several commands as one contender, all ended where one ends: `python -m benchmarks.gateway.together COMMAND…`."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys


def main(commands: list[str]) -> int:
    """Run them until SIGTERM comes; then they are ended, the last first: a store outlives those who use it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun: list[subprocess.Popen[bytes]] = []
    try:
        begun += (subprocess.Popen(shlex.split(each)) for each in commands)
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    except KeyboardInterrupt:
        return 0
    else:
        return 1  # none of them ends by itself
    finally:
        for each in reversed(begun):
            each.terminate()
            each.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
