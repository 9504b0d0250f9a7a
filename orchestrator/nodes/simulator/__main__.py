"""`python -m orchestrator.nodes.simulator --config FILE`."""

import sys

from orchestrator.nodes.simulator.server import main

sys.exit(main())
