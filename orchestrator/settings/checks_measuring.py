"""What settings of judging and of evaluations must be together: a model that judges, a set that somebody is asked.

Pure, as `checks`, which calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from orchestrator.settings.measuring import EvalSettings
from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.problems import Problem, unknown_name

Lacks = Callable[..., bool]
# The names written in a section; None where the whole of it was left out.
Names = Callable[[str], list[str] | None]


def check_measuring(settings: ClusterSettings, lacks: Lacks, names: Names) -> list[Problem]:
    """Every problem with scorers and with the evaluation that comes round."""
    problems = [*_scorers(settings, lacks)]
    if not lacks("eval"):
        problems += [*_eval(settings.eval), *_asked(settings, names), *_asking(settings, lacks)]
    return problems


def _scorers(settings: ClusterSettings, lacks: Lacks) -> Iterator[Problem]:
    """Who judges every question sees every text: a pool of the cluster, and nobody outside."""
    for name, route in settings.routes.items():
        tier = settings.tiers.get(route.scorer_tier or "")
        if tier is not None and tier.provider is not None and not lacks("routes", name):
            why = f"{route.scorer_tier!r} is a provider's, and every question would go there; name a tier with a pool"
            yield Problem(("routes", name, "scorer_tier"), why)


def _eval(told: EvalSettings) -> Iterator[Problem]:
    if told.set is not None and not told.targets:
        yield Problem(("eval", "set"), "nobody is asked it; name tiers, routes or models as `targets`")
    for field, meant in EvalSettings.model_fields.items():
        if told.set is None and field != "set" and getattr(told, field) != meant.default:
            yield Problem(("eval", field), "is of no use without a `set` of questions; name one, or leave this out")


def _asked(settings: ClusterSettings, names: Names) -> Iterator[Problem]:
    """Each target is somebody; what a server of others has, where none of its models is named, it says itself."""
    sections = [names(each) for each in ("tiers", "routes", "models")]
    if settings.eval.set is None or None in sections or any(not each.models for each in settings.instances):
        return
    known = [name for each in sections for name in each or ()]
    known += [model for each in settings.instances for model in each.models]
    for index, target in enumerate(settings.eval.targets):
        tier = settings.tiers.get(target)
        if target not in known:
            yield unknown_name(("eval", "targets", index), "target", target, known)
        elif tier is not None and tier.provider is not None and _may_not_name(settings):
            why = f"{target!r} is a provider's, which {settings.eval.key!r} may not ask by name; give it `admin: true`"
            yield Problem(("eval", "targets", index), why)


def _may_not_name(settings: ClusterSettings) -> bool:
    """Whether who asks lacks the scope that passes the router by."""
    return any(each.name == settings.eval.key and "admin" not in each.granted for each in settings.keys)


def _asking(settings: ClusterSettings, lacks: Lacks) -> Iterator[Problem]:
    told, keys = settings.eval, [each.name for each in settings.keys]
    if told.set is None or lacks("keys"):
        return
    if told.key is not None and told.key not in keys:
        yield unknown_name(("eval", "key"), "key", told.key, keys)
    elif told.key is None and keys:
        yield Problem(("eval", "set"), f"is asked by nobody who is known; name a `key`, one of: {', '.join(keys)}")
