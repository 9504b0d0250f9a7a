"""Names of every key and channel in Redis. All start with `olm:`; the keys of one pool share the hash tag `{pool}`,
so that a Redis Cluster keeps them together and a script may change them at once. What lies in them the scripts say."""

from __future__ import annotations

from functools import lru_cache

POOLS = "olm:pools"  # set: names of the pools published
ROUTES = "olm:routes"  # set: names that usage outside a pool was counted under
WRITABLE = "olm:writable:"  # with a number: written to see whether a server takes writes again
PROGRESS = "olm:progress"  # hash: name -> what is being done for it, one line for people

# One hash tag, because a script reads the leader and writes the snapshot.
LEADER = "olm:{cluster}:leader"
TOKEN = "olm:{cluster}:token"  # noqa: S105 - a fencing token, no secret
SNAPSHOT = "olm:{cluster}"
SNAPSHOT_CHANNEL = "olm:cluster"

# Changes of models that are to be done; beside the leader, who alone may tell of them.
CHORES = "olm:{cluster}:chores"
CHORES_CHANNEL = "olm:chores"

MEMBERS = "olm:{cluster}:members"  # hash: who shares this Redis, see lua/meet.lua
CALLERS = "olm:{cluster}:callers"  # sorted set: callers by token and what they may use, by when they asked last
RETURNED = "olm:{cluster}:returned"  # hash: gateways that have told this Redis all that they use, see lua/meet.lua
KEPT = "olm:{cluster}:kept"  # hash: files that each machine is to have, see lua/keep.lua

# In the order that lua/shared/state.lua names them.
_OF_A_POOL = (
    *("slots", "load", "health", "records", "expiry", "queue", "ended", "turns", "rises"),
    *("gone", "gone_before"),
)

# Hashes of JSON: what is known of routes' drift; what evaluations found last, by target.
DRIFT = "olm:drift"
REPLAYED = "olm:replayed"

# Streams: what was asked of routes, by whose answers they are. With `{route}`'s first half.
QUESTIONS = "olm:questions:{"

# What is known of kept answers, in the order that lua/reckon.lua names it.
ANSWER_BOOKS = tuple(f"olm:{{answers}}:{each}" for each in ("uses", "ends", "about", "counts"))


@lru_cache(maxsize=4096)
def pool_keys(pool: str) -> tuple[bytes, ...]:
    """The keys every script of a pool takes first, in the order that lua/shared/state.lua names them."""
    return tuple(f"olm:pool:{{{pool}}}:{each}".encode() for each in _OF_A_POOL)


def pool_answer(pool: str, digest: str) -> str:
    return f"olm:pool:{{{pool}}}:answer:{digest}"


def pool_making(pool: str, digest: str) -> str:
    return f"olm:pool:{{{pool}}}:making:{digest}"


def pool_affinity(pool: str, token: str) -> str:
    return f"olm:pool:{{{pool}}}:affinity:{token}"


def pool_suspect(pool: str, instance: str) -> str:
    return f"olm:pool:{{{pool}}}:suspect:{instance}"


def pool_usage(pool: str, day: str) -> str:
    return f"olm:pool:{{{pool}}}:usage:{day}"


def route_answer(route: str, digest: str) -> str:
    return f"olm:answers:{{{route}}}:{digest}"


def route_questions(route: str, scope: str) -> str:
    return f"{QUESTIONS}{route}}}:{scope}"


def route_counts(route: str) -> str:
    return f"olm:answered:{{{route}}}"


def route_usage(route: str, day: str) -> str:
    return f"olm:usage:{{{route}}}:{day}"


def route_rated(route: str, receipt: str) -> str:
    return f"olm:rated:{{{route}}}:{receipt}"


@lru_cache(maxsize=4096)
def budget_keys(scope: str) -> tuple[str, str, str]:
    """What is counted of a budget's scope, in the order that lua/shared/budget.lua names it.

    One hash tag for all budgets: a call claims several of them at once, all or nothing, and they are small.
    """
    sums = f"olm:budget:{{all}}:{scope}"
    return sums, f"{sums}:minute", f"{sums}:held"


def budget_record(reservation: str) -> str:
    return f"olm:budget:{{all}}:reserved:{reservation}"


def chore_told(chore: str) -> str:
    """What was told of one change of models."""
    return f"olm:{{cluster}}:chore:{chore}"


def joins(holder: str) -> str:
    """The channel on which a gateway hears of answers that are made for several workers at once."""
    return f"olm:join:{holder}"


def grants(holder: str) -> str:
    """The channel on which a gateway hears of its granted tickets."""
    return f"olm:grant:{holder}"
