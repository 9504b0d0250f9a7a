"""The process of a simulated Ollama instance: `python -m orchestrator.nodes.simulator --config FILE`.

It speaks Ollama's API as a real one does on the wire and plays the time a card would take. Nothing it says comes from
a model, and every answer says so. SIGTERM ends it as it ends a real one: streams are cut, the exit status is 0. SIGUSR1
is the death of the runners alone, which real ones are processes of their own; SIGUSR2 is a hang: calls are taken and
none is answered, until a second one.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import uvloop
from aiohttp import web

from orchestrator.nodes.simulator.calls import Calls
from orchestrator.nodes.simulator.changing import Changing
from orchestrator.nodes.simulator.config import ConfigError, SimulatorConfig, load_config
from orchestrator.nodes.simulator.http import app_for
from orchestrator.nodes.simulator.listing import Listing
from orchestrator.nodes.simulator.residence import Residence
from orchestrator.nodes.simulator.seats import CardSeats
from orchestrator.nodes.simulator.shelf import ConfiguredShelf, Shelf

# A real Ollama's listener has the system's limit; a burst of clients shall wait in it, not be refused.
_BACKLOG = 4096
# It closes no connection that a client keeps, however long it is idle.
_KEPT_FOR_S = 30 * 86400.0


class Simulator:
    """One instance, from its listening socket to its last cut stream."""

    def __init__(self, config: SimulatorConfig, shelf: Shelf | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._config = config
        self._seats = CardSeats(Path(config.seats_file) if config.seats_file else None, config.seat, loop.time)
        self._residence = Residence(config, self._seats)
        shelf = shelf or ConfiguredShelf(config)
        listing = Listing(config, shelf, self._residence)
        self._calls = Calls(config, listing, self._residence)
        routes = {**listing.routes(), **Changing(shelf).routes(), **self._calls.routes()}
        self._runner = web.AppRunner(
            app_for(routes, config.host),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=0.0,
            keepalive_timeout=_KEPT_FOR_S,
        )

    async def start(self) -> None:
        """Listen. Raises OSError where the port is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._config.host, self._config.port, backlog=_BACKLOG).start()

    def kill_runners(self) -> None:
        self._residence.kill_runners()

    def hang(self) -> None:
        """Take calls and answer none from now on, or answer again."""
        self._calls.hang()

    async def stop(self) -> None:
        """Cut every connection and leave the card."""
        server = self._runner.server
        for connection in server.connections if server else ():
            connection.force_close()
        await self._runner.cleanup()
        await self._residence.close()
        self._seats.close()


async def serve(config: SimulatorConfig, shelf: Shelf | None = None, *, heeds_sigterm: bool = True) -> None:
    """Run until SIGTERM or SIGINT. `shelf`: where the models are; None: in the configuration."""
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, asked_to_stop.set if heeds_sigterm else lambda: None)
    simulator = Simulator(config, shelf)
    loop.add_signal_handler(signal.SIGUSR1, simulator.kill_runners)
    loop.add_signal_handler(signal.SIGUSR2, simulator.hang)
    try:
        await simulator.start()
        print(f"{config.instance}: simulated {config.card or 'CPU'} on {config.host}:{config.port}", flush=True)
        await asked_to_stop.wait()
    finally:
        await simulator.stop()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.nodes.simulator", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON file of the instance")
    try:
        uvloop.run(serve(load_config(parser.parse_args(argv).config)))
    except (ConfigError, OSError) as why:
        print(f"simulator: {why}", file=sys.stderr)
        return 1
    return 0
