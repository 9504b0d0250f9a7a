"""Redis, and only Redis: one small Lua script a change of state, reached over one multiplexed connection."""
