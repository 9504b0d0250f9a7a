"""What `ollamactl capacity` says as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from orchestrator.cli.capacity_tables import Judged, Told
from orchestrator.core.capacity.carrying import Outcome, Plan
from orchestrator.core.capacity.comparing import MARGIN, Compared
from orchestrator.core.capacity.documents import Verdict, figures
from orchestrator.core.capacity.planning import Candidate
from orchestrator.core.capacity.prices import prices


def as_json(told: Told) -> dict[str, Any]:
    """All of it, by names; what was not asked for is not in it."""
    wish, play = told.wish, told.play
    found: dict[str, Any] = {
        "about": told.about,
        "asked": {**asdict(told.load), "context": wish.context, "kv_type": wish.kv_type, "prices": wish.basis.value},
        "recorded": asdict(told.recorded) if told.recorded else None,
        "plans": [_candidate(each) for each in told.found],
    }
    if play is not None:
        calls = None if play.arrivals is None else len(play.arrivals)
        found["simulation"] = {"seed": play.seed, **asdict(play.hour), "margin": MARGIN, "recorded_calls": calls}
        for plan, each in zip(found["plans"], told.compared, strict=False):
            plan["simulated"] = _compared(each)
    if told.judged:
        found["documents"] = [_judged(each) for each in told.judged]
        found["figures"] = [asdict(each) for each in figures(told.load, wish.small, wish.full)]
    if told.changed:
        found["what_if"] = [
            {"changed": each.change, "plan": _candidate(each.found) if each.found else None} for each in told.changed
        ]
    if told.with_prices:
        found["prices"] = [asdict(each) for each in prices()]
    return found


def _compared(each: Compared) -> dict[str, Any]:
    played = each.played
    return {
        **asdict(played),
        "utilisation": played.utilisation,
        "keeps_goals": played.is_within,
        "differs": each.differs,
    }


def _judged(judged: Judged) -> dict[str, Any]:
    found = _verdict(judged.verdict)
    if judged.at_promise is not None:
        found["users_carried_simulated"] = judged.carried
        found["with_users_promised"]["simulated"] = _compared(judged.at_promise)
    return found


def _candidate(found: Candidate) -> dict[str, Any]:
    return {
        **_plan_json(found.plan),
        "usd_a_month": found.usd,
        "usd_a_user": found.usd_a_user,
        **_outcome(found.outcome),
    }


def _plan_json(plan: Plan) -> dict[str, Any]:
    pools = {"small": plan.small, "full": plan.full}
    return {
        "pools": {
            tier: {
                "model": pool.model,
                "card": pool.card.name,
                "cards": pool.cards,
                "instances_a_card": pool.instances,
                "slots": pool.slots,
                "context": pool.context,
                "kv_type": pool.kv_type,
            }
            for tier, pool in pools.items()
            if pool is not None
        }
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {**asdict(outcome), "utilisation": outcome.utilisation, "keeps_goals": outcome.is_within}


def _verdict(each: Verdict) -> dict[str, Any]:
    return {
        "promise": asdict(each.promise),
        "as_promised": _plan_json(each.plan),
        "users_carried": each.carried,
        "at_once_carried": each.at_once,
        "promised_over_carried": each.too_hopeful,
        "with_users_promised": _outcome(each.at_promise),
        "with_users_carried": _outcome(each.at_carried) if each.at_carried else None,
        "usd_a_month": each.usd,
        "usd_a_user_carried": each.usd_a_user,
        "cards_rent_usd": each.rent_usd,
        "better": {**_plan_json(each.better), "users_carried": each.better_carried},
        "reasons": each.reasons,
    }
