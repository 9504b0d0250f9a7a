"""What settings of who may ask must be together: a key says once what it is known by, and once what it may do; an
issuer what its tokens are made for.

Pure, as `checks`, which calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from orchestrator.settings.access import OWN_NAME, IssuerSettings, KeySettings, TermsSettings
from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.problems import Problem
from orchestrator.settings.syntax import provider_address

Lacks = Callable[..., bool]


def check_access(settings: ClusterSettings, lacks: Lacks) -> list[Problem]:
    """Every problem with keys, and with being open beside them."""
    problems = [*_open(settings, lacks)]
    for index, key in enumerate(settings.keys):
        if not lacks("keys", index):
            # What is missing is said where it should stand.
            problems += (Problem(("keys", index, at), why, at_key=at == "secret") for at, why in _key(key, settings))
    for name, issuer in settings.issuers.items():
        if not lacks("issuers", name):
            problems += (Problem(("issuers", name, *at), why) for at, why in _issuer(name, issuer, settings))
    return problems


def _key(key: KeySettings, settings: ClusterSettings) -> Iterator[tuple[str, str]]:
    """What is wrong with one, and in which of its fields."""
    if key.name == OWN_NAME:
        yield "name", f"{OWN_NAME!r} is the cluster's own key; give this one another name"
    if key.secret is None and key.digest is None:
        yield "secret", "is missing; write it, or the `digest` that the key is known by"
    elif key.secret is not None and key.digest is not None:
        yield "digest", "is of the `secret` that stands here already; leave one of them out"
    yield from _terms(key, "key")
    if settings.eval.set is not None and settings.eval.key == key.name:
        if key.secret is None:
            yield "digest", "`eval.key` names this key, and a digest is no key to ask by; write its `secret`"
        elif "infer" not in key.granted:
            yield "scopes", "`eval.key` names this key, and it may not ask models; add `infer`"


def _terms(terms: TermsSettings, what: str) -> Iterator[tuple[str, str]]:
    """What is wrong with what a key or a grant allows."""
    if terms.admin and terms.scopes is not None:
        yield "admin", "is said by `scopes`; add `admin` there, or leave one of them out"
    if terms.scopes == ():
        yield "scopes", f"names none: such a {what} opens nothing; leave it out for `infer`, or take the {what} out"
    if terms.models == ():
        yield "models", f"names none: such a {what} could ask nothing; leave it out for all of them"


def _issuer(name: str, issuer: IssuerSettings, settings: ClusterSettings) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with one, and where in it."""
    before = [*settings.issuers][: [*settings.issuers].index(name)]
    for other in before:
        if settings.issuers[other].url == issuer.url:
            yield ("url",), f"is that of {other!r} too; make one of them"
    for grant, terms in issuer.grants.items():
        yield from ((("grants", grant, at), why) for at, why in _terms(terms, "grant"))
        for claim, values in terms.when.items():
            if not values:
                yield ("grants", grant, "when"), f"names no value of {claim!r}; name one, or leave the claim out"
    login = issuer.login
    if login is None:
        if not issuer.audience:
            yield ("audience",), "is missing: a token that was made for somebody else would open this; name ours"
        return
    if issuer.jwks_file is not None:
        yield ("login",), "asks the issuer, and `jwks_file` says that it cannot be asked; leave one of them out"
    if "openid" not in login.scopes:
        yield ("login", "scopes"), "lacks `openid`, without which the issuer says nothing of who logs in; add it"
    if provider_address(login.url)[3] not in ("", "/"):
        yield ("login", "url"), "ends behind the host: the page is always at its /status"
    if any(settings.issuers[each].login is not None for each in before):
        yield ("login",), "is said of another issuer already; people log in to the page with one"


def _open(settings: ClusterSettings, lacks: Lacks) -> Iterator[Problem]:
    """Being open to anybody and asking for keys at once cannot be meant."""
    if settings.open and not lacks("open"):
        if settings.keys_file is not None:
            yield Problem(("open",), "is said beside `keys_file`, and with keys nobody is let in without one; choose")
        elif settings.keys:
            yield Problem(("open",), "is said beside `keys`, and with keys nobody is let in without one; choose")
        elif settings.issuers:
            yield Problem(("open",), "is said beside `issuers`, and with them nobody unknown is let in; choose")
