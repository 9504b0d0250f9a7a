"""Where instances go: which accelerators hold which pool's copies, within the memory that is measured free.

Knows rooms, footprints and what instances serve; measuring is left to `nodes`, sizes to `sizing`, times to `physics`,
making it so to `fleet`. Pure: the same demands, nodes and current placements give the same plan. Four promises: on no
accelerator, and in no node's RAM, do new placements go beyond what is free less the headroom; every pool has its
minimum before any pool has more, or a sentence that says why not; the most calls of known load are served within their
goal; what already runs stays where it is, unless moving it serves a minimum or markedly more calls.

`planning` has the whole; `greedy` places copy by copy, and where that falls short `solver` finds the patterns of whole
kinds of cards and `assignment` the cards for them. docs/decisions/0013-placement-by-milp.md says why.
"""

from orchestrator.core.placement.planning import Effort, place
from orchestrator.core.placement.rooms import HEADROOM_BYTES, RAM_HEADROOM_BYTES, usable_accelerators

__all__ = ["HEADROOM_BYTES", "RAM_HEADROOM_BYTES", "Effort", "place", "usable_accelerators"]
