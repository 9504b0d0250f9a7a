"""Settings of providers: what may be left out, what is refused in one line, and secrets that nobody prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.app.rules import rules_from
from orchestrator.core.errors import SettingsError
from orchestrator.core.privacy import Privacy
from orchestrator.core.target import Budget, Price
from orchestrator.settings import ClusterSettings, parse, show

KEY = "gsk-0123456789abcdef"


def written(**changes: Any) -> dict[str, Any]:
    """A configuration with one provider, with changes at the top level."""
    return {
        "models": {"m": {}},
        "providers": {"groq": {"key": "env:GROQ_KEY"}},
        "tiers": {"small": {"model": "m"}, "full": {"provider": "groq", "model": "llama-3.3-70b-versatile"}},
        "routes": {"auto": {}},
        **changes,
    }


def settings(tree: dict[str, Any], folder: Path = Path("/")) -> ClusterSettings:
    return parse(yaml.safe_dump(tree), str(folder / "cluster.yaml"), {"GROQ_KEY": KEY, "EMPTY": ""})


def refused(tree: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as why:
        settings(tree)
    return str(why.value)


def test_a_known_name_needs_a_key_and_nothing_else():
    tier = rules_from(settings(written())).tiers["full"]
    assert tier.provider is not None
    assert (tier.pool, tier.model, tier.accepts) == ("", "llama-3.3-70b-versatile", Privacy.PUBLIC)
    provider = tier.provider
    assert (provider.host, provider.port, provider.is_tls, provider.prefix) == ("api.groq.com", 443, True, "/openai/v1")
    assert provider.key == KEY
    assert KEY not in repr(tier)


def test_another_name_may_be_like_a_known_one_with_its_plan_and_prices():
    providers = {"work": {"like": "groq", "key": KEY, "plan": "free"}, "free": {"like": "openrouter", "key": KEY,
                 "plan": "free"}}  # fmt: skip
    tiers = {
        "small": {"provider": "work", "model": "openai/gpt-oss-120b", "limits": {"tpm": 4000}},
        "full": {"provider": "free", "model": "x/y:free", "limits": {"usd_day": 1}},
    }
    rules = rules_from(settings(written(providers=providers, tiers=tiers)))
    small, full = rules.tiers["small"], rules.tiers["full"]
    assert small.budget == Budget(tpm=4000, tpd=200_000)
    assert full.provider is not None
    assert (full.provider.budget.rpd, full.price) == (50, Price(0, 0))


def test_prices_of_a_tier_come_before_its_providers_and_those_before_the_catalogue():
    def price(provider: dict[str, Any], tier: dict[str, Any]) -> Price | None:
        tiers = {"small": {"model": "m"}, "full": {"provider": "openai", "model": "gpt-4.1-mini", **tier}}
        tree = written(providers={"openai": {"key": KEY, **provider}}, tiers=tiers)
        return rules_from(settings(tree)).tiers["full"].price

    ours = {"prices": {"gpt-4.1-mini": {"prompt": 3, "completion": 4}}}
    assert price({}, {}) == Price(0.40, 1.60)
    assert price(ours, {}) == Price(3, 4)
    assert price(ours, {"price": {"prompt": 1, "completion": 2}}) == Price(1, 2)


def outside(**provider: Any) -> dict[str, Any]:
    """The one tier that goes outside goes to `far`."""
    tiers = {"small": {"model": "m"}, "full": {"provider": "far", "model": "x"}}
    return written(providers={"far": provider}, tiers=tiers)


def tiered(**tier: Any) -> dict[str, Any]:
    return written(tiers={"small": {"model": "m"}, "full": {"provider": "groq", "model": "x", **tier}})


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        (outside(), "providers.far.url: is missing: 'far' is not in the catalogue"),
        (outside(like="grok", url="https://x/v1"), "did you mean 'groq'?"),
        (outside(url="https://x/v1", plan="free"), "providers.far.plan: no such plan 'free'"),
        (outside(url="ftp://x"), "expected https://host/path"),
        (outside(url="https://me:secret@x/v1"), "a URL is no place for a secret"),
        (outside(url="https://x/v1?key=1"), "ends before any `?`"),
        (outside(url="https://x:0/v1"), "from 1 to 65535"),
        (outside(url="http://api.example.com/v1"), "would go through the network in clear"),
        (outside(url="http://8.8.8.8/v1"), "would go through the network in clear"),
        (outside(url="https://x/v1", in_clear=True), "is of no use with https"),
        (outside(url="http://127.0.0.1/v1", ca="/etc/hosts"), "is of no use without https"),
        (outside(url="https://x/v1", ca="/nowhere.pem"), "no such file: /nowhere.pem"),
        (outside(url="https://x/v1", key="env:NOT_SET"), "'NOT_SET' is not set"),
        (outside(url="https://x/v1", key="env:EMPTY"), "at least 1 are needed"),
        (outside(url="https://x/v1", headers={"Host": "y"}), "Host is set with each request"),
        (outside(url="https://x/v1", headers={"a b": "y"}), "is not a header's name"),
        (outside(url="https://x/v1", headers={"X": "a\nb"}), "no header has such"),
        (outside(url="https://x/v1", prices={"other": {"prompt": 1, "completion": 1}}), "no tier asks for this model"),
        (outside(url="https://x/v1", accepts="local"), "expected public or internal"),
        (outside(url="https://x/v1", limits={"usd_day": 1}), "needs the price of tier 'full'"),
        (written(providers={"groq": {}}), "providers.groq.key: is missing: groq answers nobody without one"),
        (written(providers={}), "no such provider 'groq'"),
        (written(tiers={"small": {"model": "m"}, "full": {"model": "m"}}), "no tier names this provider"),
        (tiered(share=0.5), "tiers.full.share: is about instances of the cluster"),
        (tiered(accepts="local"), "`local` never leaves the cluster"),
        (tiered(accepts="internal"), "goes beyond what provider 'groq' accepts"),
        (tiered(limits={"usd_month": 5}), "tiers.full.price: is not known"),
        (tiered() | {"keys": [{"name": "k", "secret": KEY, "limits": {"usd_day": 1}}]}, "keys[0].limits.usd_day"),
        (written(tiers={"small": {"model": "m", "limits": {"usd_day": 1}}, "full": {"provider": "groq", "model": "x"}}),
         "tiers.small.price: is not known"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_the_field_and_the_way_out(tree, told):
    text = refused(tree)
    assert told in text
    assert KEY not in text


def doubting(first: str, **tier: Any) -> dict[str, Any]:
    """A route that doubts what `first` answers."""
    tiers = {"small": {"model": "m"}, "full": {"provider": "groq", "model": "llama-3.3-70b-versatile", **tier}}
    to = "small" if first == "full" else "full"
    route = {"primary": first, "escalate_to": to, "escalate_if": [{"refusal": True}, {"confidence_below": 0.8}]}
    return written(tiers=tiers | {"top": {"model": "m"}}, routes={"auto": route, "other": {"primary": "top"}})


def test_a_confidence_that_nobody_tells_of_is_refused():
    why = "routes.auto.escalate_if[1].confidence_below: no provider of full tells log probabilities"
    assert why in refused(doubting("full"))
    assert settings(doubting("small")).routes["auto"].escalate_if
    assert settings(doubting("full", backup="top")).routes["auto"].escalate_if, "its backup tells them"


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "10.0.0.5", "192.168.1.7:1234", "[::1]:8080"])
def test_this_machine_and_its_private_network_may_be_asked_in_clear(host):
    settings(outside(url=f"http://{host}/v1"))
    settings(outside(url="http://cluster.internal/v1", in_clear=True))


def test_keys_and_headers_are_printed_as_a_mask_that_is_not_read_back():
    tree = written(providers={"groq": {"key": "env:GROQ_KEY", "headers": {"X-Team": "secret-team"}}})
    printed = show(settings(tree))
    assert KEY not in printed
    assert "secret-team" not in printed
    with pytest.raises(SettingsError, match="a mask printed in a secret's place"):
        parse(printed, "/cluster.yaml", {})


def test_what_children_read_is_what_was_written_with_secrets_in_files_of_their_own(tmp_path):
    authority = tmp_path / "ca.pem"
    authority.write_text("a certificate")
    provider = {"url": "https://x/v1", "key": KEY, "ca": "ca.pem", "headers": {"X-Team": "secret-team"}}
    tree = written(providers={"far": provider}, tiers={"small": {"model": "m"}, "full": {"provider": "far",
                   "model": "x"}})  # fmt: skip
    told = settings(tree, tmp_path)
    paths = StatePaths(tmp_path / "state")
    paths.root.mkdir(mode=0o700)
    settings_in_use.write(paths, told)
    assert settings_in_use.read(paths) == told
    text = paths.settings.read_text()
    assert KEY not in text
    assert "secret-team" not in text
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in paths.secrets.iterdir())
