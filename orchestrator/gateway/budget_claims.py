"""What a call claims of which budgets, as far as one can tell before it is made.

A scope is what a budget is of. Whether a claim is granted is left to `budgets`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from orchestrator.core.dialects.parse import turns
from orchestrator.core.limits import Need, nano_of, prompt_tokens
from orchestrator.core.model import Endpoint
from orchestrator.core.patience import most_answer_tokens
from orchestrator.core.target import ENDLESS, Budget
from orchestrator.gateway.asked import Asked
from orchestrator.gateway.identity import Caller
from orchestrator.gateway.live import Route, Tier
from orchestrator.store.budgets import Claim

# Of larger bodies most is images, mostly, whose bytes say nothing of their tokens: there the text is looked for.
SMALL_BYTES: Final = 65_536
# No model says more at once; whoever asks for more would only claim what numbers cannot hold.
MOST_ANSWER: Final = 1_000_000
MOST_CHOICES: Final = 128


def claims_of(asked: Asked, tier: Tier, usual_answer: int) -> tuple[Claim, ...]:
    """What it takes to ask a tier; `usual_answer`: tokens, for a call that does not say how long its answer may be."""
    caller = asked.trace.caller
    prompt, answer = _tokens(asked, usual_answer)
    if tier.is_outside:
        answer *= _choices(asked)
    nano = nano_of(tier.price.of(prompt, answer)) if tier.price is not None else 0
    need = Need(1, prompt + answer, nano)
    claims = [
        Claim(scope, budget, need._replace(holds=budget.concurrent is not None))
        for scope, budget in scopes_of_tier(tier)
    ]
    if caller.budget is not None and _has_costs(caller.budget):
        # Its request was counted when it came.
        claims.append(Claim(key_scope(caller), caller.budget, need._replace(requests=0)))
    return tuple(claims)


def budgets_of(tiers: Iterable[Tier], callers: Iterable[Caller]) -> Mapping[str, Budget]:
    """Every budget of the settings, by its scope; those of providers' own words, too, which are endless until then."""
    found = {scope: budget for tier in tiers for scope, budget in scopes_of_tier(tier)}
    return found | {key_scope(each): each.budget for each in callers if each.budget is not None}


def scopes_of_tier(tier: Tier) -> tuple[tuple[str, Budget], ...]:
    """What a call of this tier is counted under, beside its caller."""
    own = () if tier.budget.is_endless else ((f"tier:{tier.name}", tier.budget),)
    if tier.provider is None:
        return own
    account = tier.provider.budget
    of_account = () if account.is_endless else ((f"provider:{tier.provider.name}", account),)
    return (*own, *of_account, (target_scope(tier), ENDLESS))


def target_scope(tier: Tier) -> str:
    """What its provider says of a model holds for every tier that asks for it."""
    assert tier.provider is not None, "only a provider says what it allows"
    return f"target:{tier.provider.name}:{tier.model}"


def key_scope(caller: Caller) -> str:
    return f"key:{caller.name}"


def quota_scope(route: Route, caller: Caller) -> str:
    """Of what a key may send up on a route."""
    return f"quota:{route.name}:{caller.name}"


def _tokens(asked: Asked, usual_answer: int) -> tuple[int, int]:
    """Of the prompt and of the answer."""
    prompt = prompt_tokens(_text_bytes(asked))
    if asked.call.endpoint.is_embedding:
        return prompt, 0
    most = most_answer_tokens(asked.call)
    return prompt, usual_answer if most is None else min(most, MOST_ANSWER)


def _choices(asked: Asked) -> int:
    """How many answers are asked for at once; pools give one."""
    told = asked.call.body.get("n") if asked.call.endpoint is Endpoint.OPENAI_CHAT else None
    return min(told, MOST_CHOICES) if isinstance(told, int) and told > 1 else 1


def _text_bytes(asked: Asked) -> int:
    """Bytes of what is to be read: of a small body all, of a large one no images."""
    if asked.size <= SMALL_BYTES:
        return asked.size
    return sum(len(each.text.encode("utf-8", "replace")) for each in turns(asked.call))


def _has_costs(budget: Budget) -> bool:
    """Whether tokens or dollars are limited: then each tier that is asked counts."""
    return not (budget.tpm is budget.tpd is budget.usd_day is budget.usd_month is None)
