"""What the cluster has, as Ollama and OpenAI list it: unions over the fleet, from the last snapshot, never asked live.

A dead node therefore slows no list. What is not for a caller's key is not there for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Pool, Snapshot
from orchestrator.gateway.identity import Caller
from orchestrator.gateway.live import Live


class Listing:
    """The list endpoints' bodies."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def tags(self, caller: Caller) -> dict[str, Any]:
        """`GET /api/tags`: every pool's model, and every route under its own name."""
        models = [dict(each.details["tags"]) for each in self._pools_of(caller) if each.details.get("tags")]
        routes = [self._route_entry(name) for name in self._live.rules.routes if caller.may_use(name)]
        return {"models": [*models, *routes]}

    def running(self, caller: Caller) -> dict[str, Any]:
        """`GET /api/ps`: a line a pool that is served; `size` is that of one instance."""
        served = (each for each in self._pools_of(caller) if each.slots_serving and each.details.get("ps"))
        return {"models": [dict(each.details["ps"]) for each in served]}

    def version(self, _: Caller) -> dict[str, Any]:
        """`GET /api/version`: the oldest of the fleet, which callers can rely on; 0.0.0 before any answered."""
        pools = self._live.snapshot.pools
        engines = {each.engine_version for pool in pools for each in pool.instances if each.engine_version}
        return {"version": min(engines, key=_version_order, default="0.0.0")}

    def show(self, name: str, caller: Caller) -> dict[str, Any]:
        """`POST /api/show`. Raises CallerError 400, 404 in Ollama's words."""
        if not name:
            raise CallerError(400, "model is required")
        known = self._live.model(name) if caller.may_use(name) else None
        if known is not None and known in self._live.rules.routes:
            return self._route_show(known)
        pool = self._live.pool(known) if known is not None else None
        if pool is None or not pool.details.get("show"):
            full = name if ":" in name else f"{name}:latest"
            raise CallerError(404, f"model '{full}' not found", "not_found_error")
        return dict(pool.details["show"])

    def openai_models(self, caller: Caller) -> dict[str, Any]:
        """`GET /v1/models`."""
        return {"object": "list", "data": [_openai_model(each) for each in self.tags(caller)["models"]]}

    def openai_model(self, name: str, caller: Caller) -> dict[str, Any]:
        """`GET /v1/models/{id}`. Raises CallerError 404."""
        known = canonical_model_name(name)
        models = self.tags(caller)["models"]
        found = next((each for each in models if canonical_model_name(each["name"]) == known), None)
        if found is None:
            full = name if ":" in name else f"{name}:latest"
            raise CallerError(404, f"model '{full}' not found", "not_found_error")
        return _openai_model(found)

    def _pools_of(self, caller: Caller) -> Iterator[Pool]:
        return (each for each in self._live.snapshot.pools if caller.may_use(each.name))

    def _route_entry(self, name: str) -> dict[str, Any]:
        details = {"parent_model": "", "format": "route", "family": "route", "families": ["route"]}
        at = datetime.fromtimestamp(self._live.snapshot.published_at_unix_ms / 1e3, UTC).isoformat()
        named = {"name": name, "model": name, "modified_at": at, "size": 0, "digest": ""}
        return {
            **named,
            "details": {**details, "parameter_size": "", "quantization_level": ""},
            "capabilities": ["completion"],
        }

    def _route_show(self, name: str) -> dict[str, Any]:
        entry = self._route_entry(name)
        text = f"# {name}: a route of this cluster; each call goes to the smallest tier that is sufficient\n"
        kept = {key: entry[key] for key in ("details", "capabilities", "modified_at")}
        return {"modelfile": text, "model_info": {"general.architecture": "route"}, **kept}


def is_ready(snapshot: Snapshot, pools: Iterable[str]) -> tuple[str, ...]:
    """Pools of `pools` that cannot answer now; none: the gateway is ready."""
    serving = {pool.name for pool in snapshot.pools if any(each.slots_offered is not None for each in pool.instances)}
    return tuple(name for name in dict.fromkeys(pools) if name not in serving)


def _openai_model(entry: dict[str, Any]) -> dict[str, Any]:
    created = int(datetime.fromisoformat(entry["modified_at"][:19] + "+00:00").timestamp())
    return {"id": entry["name"], "object": "model", "created": created, "owned_by": "library"}


def _version_order(version: str) -> tuple[int, ...]:
    """`0.33.0-rc2` and its like, as far as their numbers go; llama.cpp, which speaks no Ollama version, comes last."""
    numbers = version.split("-")[0].split(".")
    return tuple(int(each) for each in numbers) if all(each.isdigit() for each in numbers) else (9999,)
