"""The request log packed now and then, by a process of its own: what that needs of memory goes with it."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from orchestrator.app.paths import StatePaths

PACK_EVERY_S: Final = 600.0


async def keep_packed(paths: StatePaths) -> None:
    """Until cancelled: have the log packed now and then, by a process of its own."""
    while True:
        await asyncio.sleep(PACK_EVERY_S)
        if not paths.calls.is_dir():
            continue
        packing = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "orchestrator.app.call_log", str(paths.root)
        )
        try:
            await packing.wait()
        finally:
            if packing.returncode is None:
                packing.kill()
                await packing.wait()
