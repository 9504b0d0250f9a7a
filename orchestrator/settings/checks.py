"""What several settings must be together: names that refer to names, and nothing that is never used.

Pure: from settings to problems. What one value may be is left to `model`, files and secrets to
`sources`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.core.catalogue import is_cloud_model
from orchestrator.core.dialects.parse import canonical_model_name
from orchestrator.settings.checks_access import check_access
from orchestrator.settings.checks_measuring import check_measuring
from orchestrator.settings.checks_outside import check_outside
from orchestrator.settings.checks_privacy import check_privacy
from orchestrator.settings.escalation_checks import unused_calibrations
from orchestrator.settings.hosts import InstanceSettings, ModelSettings, NodeSettings
from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.positions import FieldPath
from orchestrator.settings.problems import Problem, unknown_name
from orchestrator.settings.route_checks import route_problems, used_tiers


def check(settings: ClusterSettings, left_out: frozenset[FieldPath] = frozenset()) -> list[Problem]:
    """Every problem between settings.

    `left_out`: what was written and is not in `settings`, because it was wrong by itself. No problem is made of that.
    """
    whole = _Whole(settings, left_out)
    problems = [*_nodes(whole), *_models(whole), *_instances(whole), *_tiers(whole), *_routes(whole)]
    problems += [*check_outside(settings, whole.lacks), *check_privacy(settings, whole.lacks)]
    problems += check_measuring(settings, whole.lacks, whole.names)
    problems += [] if whole.lacks("routes") else unused_calibrations(settings)
    problems += check_access(settings, whole.lacks)
    problems += [*_unused_tiers(whole), *_placing(whole), *_nginx(whole), *_cache(whole), *_deploy(whole)]
    return [*problems, *_repeated([each.name for each in settings.keys], "keys", "key")]


def _nginx(whole: _Whole) -> Iterator[Problem]:
    """What nginx needs together."""
    nginx = whole.settings.nginx
    if whole.lacks("nginx"):
        return
    for field, other in (("certificate", "certificate_key"), ("certificate_key", "certificate")):
        if getattr(nginx, field) is not None and getattr(nginx, other) is None:
            yield Problem(("nginx", field), f"TLS needs `{other}` as well; name it, or leave this out")
    if nginx.redirect_from and nginx.certificate is None:
        yield Problem(("nginx", "redirect_from"), "there is no TLS to send callers to; name `certificate`")
    if nginx.proxy_protocol and not nginx.trusted_proxies:
        why = "is believed from `trusted_proxies` alone; name them, or leave this out"
        yield Problem(("nginx", "proxy_protocol"), why)
    if nginx.limits.burst != type(nginx.limits)().burst and nginx.limits.a_minute is None:
        yield Problem(("nginx", "limits", "burst"), "goes beyond `a_minute`; set that, or leave this out")


def _cache(whole: _Whole) -> Iterator[Problem]:
    """Old keys are of before something: without one of now, answers are kept as text and sealed ones are not read."""
    cache = whole.settings.cache
    if cache.old_encryption_keys and cache.encryption_key is None and not whole.lacks("cache", "encryption_key"):
        why = "are of use beside `encryption_key` alone; name that, or leave this out"
        yield Problem(("cache", "old_encryption_keys"), why)


def _deploy(whole: _Whole) -> Iterator[Problem]:
    """What is brought to hosts: a program one can be sure of, and ports that are some."""
    deploy = whole.settings.deploy
    if whole.lacks("deploy"):
        return
    if deploy.ollama is not None and "://" in deploy.ollama:
        if not deploy.ollama.startswith("https://"):
            yield Problem(("deploy", "ollama"), "is downloaded over https alone; name such a URL, or a file")
        if deploy.sha256 is None:
            why = "may lead to another file tomorrow; name its digest as `sha256` (`sha256sum FILE`)"
            yield Problem(("deploy", "ollama"), why)
    if deploy.ollama is None and deploy.sha256 is not None:
        yield Problem(("deploy", "sha256"), "is the digest of `ollama`; name that, or leave this out")
    if deploy.user == "root":
        why = "what the network speaks to does not run as root; name another user, who is made where there is none"
        yield Problem(("deploy", "user"), why)
    first, last = deploy.ports
    if not 1024 <= first <= last <= 65_535:
        yield Problem(("deploy", "ports"), "are the first and the last of some between 1024 and 65535")


class _Whole:
    """Settings, and what was left out of them."""

    def __init__(self, settings: ClusterSettings, left_out: frozenset[FieldPath]) -> None:
        self.settings = settings
        self._left_out = left_out

    def lacks(self, *path: str | int) -> bool:
        """Whether `path` was left out, or anything in it or around it."""
        return any(path[: len(each)] == each[: len(path)] for each in self._left_out)

    def names(self, section: str) -> list[str] | None:
        """The names written in `section`; None where the whole section was left out."""
        if (section,) in self._left_out:
            return None
        left_out = [str(each[1]) for each in self._left_out if len(each) == 2 and each[0] == section]
        return [*getattr(self.settings, section), *sorted(left_out)]


def _nodes(whole: _Whole) -> Iterator[Problem]:
    nodes = whole.settings.nodes
    yield from _repeated([each.name for each in nodes], "nodes", "node")
    real = [index for index, each in enumerate(nodes) if each.address == "local" and each.simulate is None]
    if whole.lacks("nodes"):
        return
    for index in real[1:]:
        yield Problem(("nodes", index), f"node {nodes[real[0]].name!r} is this machine already; remove one of them")
    for index, node in enumerate(nodes):
        yield from _reached(index, node)
    yield from _played(nodes)


def _reached(index: int, node: NodeSettings) -> Iterator[Problem]:
    """What only a host over SSH has, and what only this machine does."""
    if node.address == "local":
        for field in ("user", "key", "models_dir"):
            if getattr(node, field) != NodeSettings.model_fields[field].default:
                why = "is of no use on this machine; name the host's `address`, or leave this out"
                yield Problem(("nodes", index, field), why)
    elif node.simulate is not None:
        why = "cards are played on this machine alone; leave this or `address` out"
        yield Problem(("nodes", index, "simulate"), why)


def _played(nodes: Sequence[NodeSettings]) -> Iterator[Problem]:
    """Nobody shall get a played text from a pool that otherwise has a model's."""
    real = next((each.name for each in nodes if each.simulate is None), None)
    here = [index for index, each in enumerate(nodes) if each.simulate is not None and each.address == "local"]
    for index in here if real is not None else ():
        why = f"node {real!r} is real, and played cards answer with played texts; play all nodes, or leave this out"
        yield Problem(("nodes", index, "simulate"), why)


def _models(whole: _Whole) -> Iterator[Problem]:
    models = whole.settings.models
    for name, model in models.items():
        path = ("models", name)
        if model.share != 1.0 and model.replicas != "fill" and not whole.lacks(*path, "replicas"):
            yield Problem((*path, "share"), "only pools with `replicas: fill` share room; set that or leave this out")
        if model.gguf is not None and whole.settings.engine == "ollama":
            why = "only the built-in llama.cpp engine serves a GGUF file; set `engine: llama.cpp` or leave this out"
            yield Problem((*path, "gguf"), why)
        if is_cloud_model(name):
            why = "is served by ollama.com: prompts would leave the cluster; name a model that is downloaded"
            yield Problem(path, why, at_key=True)
        if name.endswith(":latest") and (twin := name.removesuffix(":latest")) in models:
            yield Problem(path, f"is the same model as {twin!r}; keep one of them", at_key=True)


def _placing(whole: _Whole) -> Iterator[Problem]:
    """What placement is asked for: names that are there, and a load where instances follow it."""
    models, nodes = whole.names("models"), [each.name for each in whole.settings.nodes]
    for name, model in whole.settings.models.items():
        path = ("models", name)
        for field in ("apart", "beside"):
            for index, other in enumerate(getattr(model, field)):
                if other == name:
                    yield Problem((*path, field, index), f"{name!r} is this model itself; name another one")
                elif models is not None and other not in models:
                    yield unknown_name((*path, field, index), "model", other, models)
        if both := sorted(set(model.apart) & set(model.beside)):
            yield Problem((*path, "beside"), f"{both[0]!r} stands under `apart` as well; keep one of them")
        for index, node in enumerate(model.on_nodes):
            if node not in nodes and not whole.lacks("nodes"):
                yield unknown_name((*path, "on_nodes", index), "node", node, nodes)
        if isinstance(model.replicas, int) and model.hosts > model.replicas:
            why = f"{model.replicas} instances cannot be on {model.hosts} hosts; raise `replicas`"
            yield Problem((*path, "hosts"), why)
        yield from _range(whole, name, model)
    yield from _foretold(whole)


def _range(whole: _Whole, name: str, model: ModelSettings) -> Iterator[Problem]:
    """Limits are of numbers that follow a load, and leave one."""
    path = ("models", name)
    for field in ("replicas_min", "replicas_max"):
        if getattr(model, field) is not None and model.replicas != "auto" and not whole.lacks(*path, "replicas"):
            yield Problem((*path, field), "only `replicas: auto` has a range; set that or leave this out")
    least = max(model.replicas_min or 1, model.hosts)
    if model.replicas == "auto" and model.replicas_max is not None and model.replicas_max < least:
        why = f"at most {model.replicas_max} instances, and {least} at least, leave no number; raise it"
        yield Problem((*path, "replicas_max"), why)


def _foretold(whole: _Whole) -> Iterator[Problem]:
    """A load is foretold by two numbers: calls at once, and the part of them that a tier with the model gets."""
    settings = whole.settings
    if whole.lacks("demand") or whole.lacks("tiers") or whole.lacks("models"):
        return
    auto = {name for name, model in settings.models.items() if model.replicas == "auto"}
    shares = {name: each for name, each in settings.tiers.items() if each.share is not None and each.model in auto}
    if settings.demand.at_once is not None and auto and not shares:
        why = "says nothing without a `share` of a tier whose model has `replicas: auto`; set one or leave this out"
        yield Problem(("demand", "at_once"), why)
    for name in shares if settings.demand.at_once is None else ():
        yield Problem(("tiers", name, "share"), "is a share of `demand.at_once`; set that, or leave this out")


def _instances(whole: _Whole) -> Iterator[Problem]:
    """Servers that run already, and what is of no use beside them; without any there are models to deploy."""
    settings = whole.settings
    if settings.instances:
        yield from _beside_instances(settings)
        yield from _same_server(settings.instances)
    elif not settings.models and not whole.lacks("models") and not whole.lacks("instances"):
        why = "needs one entry at least, such as models: {NAME: {slots: 2}}; or name `instances` that run already"
        yield Problem(("models",), why)


_DEPLOYED_ONLY = (
    "context", "replicas", "replicas_min", "replicas_max", "share", "kv_cache", "gguf", "instances_per_gpu", "hosts",
    "on_nodes", "apart", "beside",
)  # fmt: skip


def _beside_instances(settings: ClusterSettings) -> Iterator[Problem]:
    """What only a deployment uses."""
    why = "is of no use beside `instances`: nothing is deployed; leave it out"
    usual = ClusterSettings()
    yield from (
        Problem((field,), why) for field in ("nodes", "engine") if getattr(settings, field) != getattr(usual, field)
    )
    for name, model in settings.models.items():
        for field in _DEPLOYED_ONLY:
            if getattr(model, field) != ModelSettings.model_fields[field].default:
                yield Problem(("models", name, field), why)


def _same_server(instances: Sequence[InstanceSettings]) -> Iterator[Problem]:
    """Entries of one URL are one server: what it is they say alike, and each of its models is in one of them."""
    for index, each in enumerate(instances):
        before = list(enumerate(instances[:index]))
        twins = [(first, other) for first, other in before if other.url == each.url]
        yield from _taken_name(index, each, before)
        yield from _papers(index, each, before)
        yield from _contradictions(index, each, twins)
        yield from _repeated_models(index, each, twins)


_Numbered = Sequence[tuple[int, InstanceSettings]]


def _taken_name(index: int, each: InstanceSettings, before: _Numbered) -> Iterator[Problem]:
    taken = [first for first, other in before if other.label == each.label and other.url != each.url]
    if taken:
        why = f"instance {each.label!r} is there already, as instances[{taken[0]}]; give this one another name"
        yield Problem(("instances", index, "name"), why)


def _papers(index: int, each: InstanceSettings, before: _Numbered) -> Iterator[Problem]:
    """Certificates are of use behind https, one of ours with its key, and one address is spoken to in one way."""
    path = ("instances", index)
    for field in ("ca", "cert", "key"):
        if getattr(each, field) is not None and not each.is_tls:
            yield Problem((*path, field), "is of no use without https; name https://…, or leave this out")
    for field, other in (("cert", "key"), ("key", "cert")):
        if getattr(each, field) is not None and getattr(each, other) is None:
            yield Problem((*path, field), f"is of use with `{other}` alone; name it, or leave this out")
    if twins := [first for first, other in before if other.address == each.address and other.is_tls != each.is_tls]:
        why = f"is instances[{twins[0]}], of which one is https and the other is not; keep one of them"
        yield Problem((*path, "url"), why)


def _contradictions(index: int, each: InstanceSettings, twins: _Numbered) -> Iterator[Problem]:
    for field in ("name", "engine", "loaded_models", "ca", "cert", "key"):
        usual = InstanceSettings.model_fields[field].default
        others = [first for first, other in twins if getattr(other, field) not in (usual, getattr(each, field))]
        if others and getattr(each, field) != usual:
            why = f"instances[{others[0]}] has the same URL and says otherwise; keep one of them"
            yield Problem(("instances", index, field), why)


def _repeated_models(index: int, each: InstanceSettings, twins: _Numbered) -> Iterator[Problem]:
    path = ("instances", index)
    for first, other in twins:
        there = {canonical_model_name(model) for model in other.models}
        if repeated := [model for model in each.models if canonical_model_name(model) in there]:
            why = f"instances[{first}] has {repeated[0]!r} of this URL already; keep one of them"
            yield Problem((*path, "model"), why)
        if not each.models and not other.models:
            yield Problem((*path, "url"), f"is there already, as instances[{first}]; keep one of them")
    for model in each.models:
        if is_cloud_model(model):
            why = f"{model!r} is served by ollama.com: prompts would leave the cluster; name one that is downloaded"
            yield Problem((*path, "model"), why)


def _tiers(whole: _Whole) -> Iterator[Problem]:
    # What models instances have is known once they are asked; a tier whose model none has is told of in `status`.
    models = None if whole.settings.instances or whole.lacks("instances") else whole.names("models")
    tiers = whole.names("tiers") or []
    chat = [name for name, each in whole.settings.models.items() if not each.embedding]
    for name, tier in whole.settings.tiers.items():
        path = ("tiers", name)
        if tier.provider is not None:
            pass  # its model is the provider's
        elif models is not None and tier.model not in models:
            yield unknown_name((*path, "model"), "model", tier.model, models)
        elif tier.model in whole.settings.models and tier.model not in chat:
            why = f"{tier.model!r} embeds text and answers nothing; {_choice(chat, 'model')}"
            yield Problem((*path, "model"), why)
        if tier.backup == name:
            others = [each for each in tiers if each != name]
            yield Problem((*path, "backup"), f"a tier is no backup of itself; {_choice(others, 'tier')}")
        elif tier.backup is not None and tier.backup not in tiers:
            yield unknown_name((*path, "backup"), "tier", tier.backup, tiers)


def _routes(whole: _Whole) -> Iterator[Problem]:
    named = [*(whole.names("models") or ()), *(name for each in whole.settings.instances for name in each.models)]
    models, tiers = {_tagged(each): each for each in named}, whole.names("tiers")
    for name, route in whole.settings.routes.items():
        path = ("routes", name)
        if model := models.get(_tagged(name)):
            yield Problem(path, f"{model!r} is a model already; give the route another name", at_key=True)
        yield from route_problems(path, route, tiers, whole.lacks)


def _unused_tiers(whole: _Whole) -> Iterator[Problem]:
    """Tiers that no call can reach."""
    if whole.lacks("tiers") or whole.lacks("routes"):
        return
    used = used_tiers(whole.settings)
    if not used <= whole.settings.tiers.keys():
        return  # a name written wrongly leaves the one that was meant unused
    for name in whole.settings.tiers:
        if name not in used:
            way_out = "name it in a route, or as `backup` of a tier that a route reaches, or remove it"
            yield Problem(("tiers", name), f"no route uses this tier; {way_out}", at_key=True)


def _repeated(names: Sequence[str], section: str, what: str) -> Iterator[Problem]:
    for index, name in enumerate(names):
        if (first := names.index(name)) != index:
            way_out = "give this one another name or remove it"
            yield Problem(
                (section, index, "name"), f"{what} {name!r} is there already, as {section}[{first}]; {way_out}"
            )


def _choice(names: Sequence[str], what: str) -> str:
    return f"{what}s that can be: {', '.join(names)}" if names else f"there is no other {what} yet"


def _tagged(name: str) -> str:
    """Ollama takes a name without a tag for its `latest`."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
