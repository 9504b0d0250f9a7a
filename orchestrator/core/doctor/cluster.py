"""Checks of the cluster itself: Redis, the answer cache, what the controller published, and clocks."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.doctor.seen import Redis, Seen, Unseen
from orchestrator.core.doctor.told import Finding, Says

# Between two hosts of one network, NTP keeps milliseconds; beyond this nobody has set them.
NOTED_SKEW_S, HARMFUL_SKEW_S = 2.0, 30.0
NEARLY_FULL = 0.9


def settings(seen: Seen) -> Iterator[Finding]:
    """Whether there are settings that can be read."""
    says = Says("settings")
    if isinstance(seen.settings, Unseen):
        hurts = "a cluster started with them does not start, and one that runs keeps its old ones"
        yield says.error("settings", seen.settings.why, hurts, "`ollamactl config check` names every mistake")
    else:
        yield says.ok("settings", seen.settings)


def pools(seen: Seen) -> Iterator[Finding]:
    """Whether each pool has somebody who serves."""
    says = Says("pools")
    cluster = seen.cluster
    if isinstance(cluster, Unseen):
        yield says.unseen("cluster", cluster.why)
    elif cluster.problem:
        mends = "its workers' logs, `gateway-0.log` in the state folder's `logs`; then `ollamactl down` and `up`"
        yield says.error("endpoint", cluster.problem, "nobody is answered", mends)
    elif isinstance(cluster.pools, Unseen):
        yield says.unseen("cluster", cluster.pools.why)
    else:
        for name, states in cluster.pools.items():
            yield _pool(says, name, states)


def _pool(says: Says, name: str, states: tuple[str, ...]) -> Finding:
    serving, down = states.count("serving"), states.count("down")
    if serving and down:
        what = f"{down} of {len(states)} instances are down"
        return says.warning(name, what, "the others carry its calls", "`ollamactl status` says why")
    if serving:
        return says.ok(name, f"{serving} of {len(states)} instances serve")
    if any(state in ("cold", "loading", "starting") for state in states):
        hurts = "its first caller waits for the load"
        return says.note(name, "no instance has it in memory", hurts, "it is loaded when it is asked for")
    return says.error(name, "no instance serves", "its callers get 503", "`ollamactl status` says why")


def cache(seen: Seen) -> Iterator[Finding]:
    """Whether answers are kept and given again."""
    says = Says("cache")
    cluster = seen.cluster
    if isinstance(cluster, Unseen):
        yield says.unseen("answer cache", cluster.why)
        return
    if not cluster.is_cache_on:
        hurts = "every repeated question takes a slot and seconds instead of milliseconds"
        yield says.warning("answer cache", "OFF", hurts, "`cache: {enabled: true}` in cluster.yaml; no restart")
        return
    off = [name for name, mode in cluster.cached_routes.items() if mode == "off"]
    for name in off:
        hurts = "its repeated questions take slots"
        yield says.note(f"route {name}", "keeps no answers", hurts, f"`routes: {{{name}: {{cache: all}}}}`")
    if not off:
        yield says.ok("answer cache", "ON")


# --- Redis -----------------------------------------------------------------------------------------------------------


def redis(seen: Seen) -> Iterator[Finding]:
    """Whether Redis keeps what it is given."""
    says = Says("redis")
    cluster = seen.cluster
    if not isinstance(cluster, Unseen) and cluster.store != "up":
        hurts = "gateways serve alone: no cache, no shared queue, slots by each one's share"
        yield says.error("gateways", cluster.store, hurts, "redis.log among the state folder's logs; free disk space")
    if isinstance(seen.redis, Unseen):
        yield says.unseen("redis", seen.redis.why)
        return
    if seen.redis.problem:
        outside = "`systemctl status redis-server` there; `redis:` in cluster.yaml says where it is"
        mends = "redis.log among the state folder's logs; free disk space" if seen.redis.is_embedded else outside
        hurts = "gateways serve alone, without cache and shared queue; a start waits for it"
        yield says.error(seen.redis.address, seen.redis.problem, hurts, mends)
        return
    found = [*_kept_in_memory(says, seen.redis), *_kept_on_disk(says, seen.redis), *_reached(says, seen.redis)]
    yield from found or [says.ok(seen.redis.address, f"{seen.redis.version}: persistent, nothing is evicted")]


def _kept_in_memory(says: Says, redis: Redis) -> Iterator[Finding]:
    where = redis.address
    keeps = _set(redis, "maxmemory-policy noeviction")
    hurts = "leases and places in the queue vanish one by one: slots are oversold, callers forgotten"
    if redis.policy is None:
        yield says.unseen(where, "it does not tell its eviction policy")
    elif redis.policy != "noeviction" and redis.memory_limit_bytes:
        yield says.error(where, f"evicts keys when it is full (maxmemory-policy {redis.policy})", hurts, keeps)
    elif redis.policy != "noeviction":
        what = f"would evict keys if it had a limit (maxmemory-policy {redis.policy}, maxmemory 0)"
        yield says.warning(where, what, hurts, keeps)
    if redis.evicted_keys:
        yield says.warning(where, f"has evicted {redis.evicted_keys} keys since its start", hurts, keeps)
    if redis.memory_limit_bytes and redis.memory_used_bytes >= NEARLY_FULL * redis.memory_limit_bytes:
        what = f"{100 * redis.memory_used_bytes / redis.memory_limit_bytes:.0f} % of its memory are in use"
        more = 2 * redis.memory_limit_bytes
        mends = f"{_set(redis, f'maxmemory {more}')}; or a shorter `cache.ttl_s` in cluster.yaml"
        yield says.error(where, what, "a full one refuses writes: calls get no slot from it", mends)


def _set(redis: Redis, setting: str) -> str:
    """The commands that change one setting of this Redis, now and for its next start."""
    if redis.is_embedded:
        return "start the cluster again: `ollamactl down`, then `ollamactl up` starts it with the right settings"
    at = redis.address.partition("://")[2]
    host, _, port = at.rpartition(":")
    to = f"redis-cli -s {at}" if redis.address.startswith("unix://") else f"redis-cli -h {host} -p {port}"
    if redis.address.startswith("sentinel://"):
        to = "redis-cli -h MASTER"
    return f"`{to} CONFIG SET {setting}` and `{to} CONFIG REWRITE`"


def _kept_on_disk(says: Says, redis: Redis) -> Iterator[Finding]:
    where = redis.address
    if redis.is_write_failing:
        mends = "free space on its disk (`df -h`), then its log; it goes on by itself"
        yield says.error(where, "its last write to disk failed", "it may refuse every write until one succeeds", mends)
    if redis.has_log is None:
        yield says.unseen(where, "it does not tell whether it writes to disk")
    elif not redis.has_log:
        mends = _set(redis, "appendonly yes")
        if redis.snapshots:
            what = f"keeps snapshots alone (save {redis.snapshots}), no append-only file"
            yield says.note(where, what, "after a crash, what came since the last one is gone", mends)
        else:
            rest = "" if redis.snapshots is not None else "; whether it keeps snapshots it does not tell"
            hurts = "after its restart cached answers, counts and the last snapshot of the cluster are gone"
            yield says.warning(where, f"has no append-only file{rest}", hurts, mends)


def _reached(says: Says, redis: Redis) -> Iterator[Finding]:
    if redis.is_replica:
        mends = "name the master, or the Sentinels: `redis: sentinel://host:26379/NAME` in cluster.yaml"
        yield says.error(redis.address, "is a replica", "it refuses every write", mends)
    if redis.is_open:
        hurts = "whoever reaches it reads cached answers, and may stop the cluster"
        mends = "`requirepass` or an ACL user there, and `redis: rediss://user:password@…` in cluster.yaml"
        yield says.warning(redis.address, "answers over the network without a password", hurts, mends)


# --- clocks ----------------------------------------------------------------------------------------------------------


def clocks(seen: Seen) -> Iterator[Finding]:
    """Whether hosts agree on the time."""
    says = Says("clocks")
    mends = "`timedatectl set-ntp true` on both, then `chronyc tracking` or `timedatectl timesync-status`"
    hurts = "logs and figures of two hosts cannot be put side by side; a wrong one also fails at TLS"
    for each in seen.clocks:
        if isinstance(each, Unseen):
            yield says.unseen("clocks", each.why)
            continue
        off_s = max(0.0, abs(each.ahead_s) - each.within_s)
        what = f"its clock is {abs(each.ahead_s):.1f} s {'ahead of' if each.ahead_s > 0 else 'behind'} this machine's"
        if off_s >= HARMFUL_SKEW_S:
            yield says.warning(each.whose, what, hurts, mends)
        elif off_s >= NOTED_SKEW_S:
            yield says.note(each.whose, what, hurts, mends)
        else:
            yield says.ok(each.whose, f"its clock is this machine's to {max(abs(each.ahead_s), each.within_s):.1f} s")
    if not seen.clocks:
        yield says.unseen("clocks", "nobody else's clock was reached")
