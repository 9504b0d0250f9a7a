"""Decisions: functions from values to values. No clock, no socket, no Redis, no `async def`."""
