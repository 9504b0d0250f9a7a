"""How many users a set of cards carries, how fast, at what cost, and the cheapest set that carries a given number.

Pure predictions from published numbers: what is asked for is `demand`'s, how long answers take on a card `service`'s,
how long they wait `queueing`'s, tiers and users joined `carrying`'s, money `prices`', the cheapest plan `planning`'s,
the owner's documents held against all this `documents`'. docs/decisions/0019-capacity-model.md has formulas and limits.

And the same plans played call by call: `simulation`, of what is `asking`, `placed`, leased (`leasing`) and worked on
(`engine`); what it saw is `seen`'s, both beside each other `comparing`'s (docs/decisions/0037-capacity-checked.md).
"""
