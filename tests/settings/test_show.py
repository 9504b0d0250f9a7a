"""Settings printed, described and documented: always as the models have them, never with a secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import SettingsError
from orchestrator.settings import ClusterSettings, ModelSettings, json_schema, load, parse, show
from orchestrator.settings.live import AT_START, live_part, needs_restart
from orchestrator.settings.reference import EXAMPLE, annotated, document, reference
from orchestrator.settings.section import Section
from orchestrator.settings.show import without_password
from orchestrator.settings.words import section_of

ROOT = Path(__file__).parents[2]
# In the order in which they are printed.
SECRETS = ("gsk_0123456789", "0123456789abcdef", "fedcba9876543210")


@pytest.fixture
def example(tmp_path, monkeypatch) -> ClusterSettings:
    """The page's example, in a folder that has what it names."""
    monkeypatch.setenv("GROQ_KEY", SECRETS[0])
    monkeypatch.setenv("SUPPORT_KEY", SECRETS[1])
    (tmp_path / "faq.yaml").write_text("[]")
    (tmp_path / "operator.key").write_text(SECRETS[2])
    (tmp_path / "operator.key").chmod(0o600)
    path = tmp_path / "cluster.yaml"
    path.write_text(annotated(EXAMPLE))
    return load(path)


def test_what_is_shown_reads_back_as_the_same_but_for_its_secrets(example):
    text = show(example)
    assert not any(secret in text for secret in SECRETS)
    for secret in SECRETS:
        text = text.replace("'********'", secret, 1)
    assert parse(text, "cluster.yaml") == example


def test_every_default_is_filled_in():
    tree = yaml.safe_load(show(parse("models:\n  a:\n", "cluster.yaml")))
    assert set(tree) == set(ClusterSettings.model_fields)
    assert tree["models"]["a"]["kv_cache"] == "f16"
    assert tree["limits"]["lease_ttl_s"] == 15.0


def test_a_mask_is_not_taken_for_a_secret(example):
    with pytest.raises(SettingsError, match="a mask printed in a secret's place"):
        parse(show(example), "cluster.yaml")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("embedded", "embedded"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:p@ss@host:6379/0", "redis://:********@host:6379/0"),
        ("rediss://user:pa:ss@host", "rediss://user:********@host"),
        ("redis://host?db=1&password=pass&x=1", "redis://host?db=1&password=********&x=1"),
    ],
)
def test_a_redis_password_is_masked(url, shown):
    assert without_password(url) == shown
    assert parse(show(parse(f"models: {{a: }}\nredis: '{url}'", "c")), "c").redis == shown


def test_servers_that_run_already_read_back_as_shown():
    text = "instances: [{url: 'http://a:1', slots: 4}, {url: 'http://b:1', model: [x, y], name: b, loaded_models: 2}]"
    cluster = parse(text, "cluster.yaml")
    assert parse(show(cluster), "cluster.yaml") == cluster


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,20}", fullmatch=True)
models = st.builds(
    ModelSettings,
    slots=st.integers(1, 64),
    context=st.integers(256, 2**20),
    replicas=st.just("fill"),
    share=st.floats(0.001, 1000),
    embedding=st.booleans(),
)


@given(st.dictionaries(names.filter(lambda name: not name.endswith(":latest")), models, min_size=1, max_size=5))
def test_any_settings_read_back_as_shown(pools):
    cluster = ClusterSettings(models=pools)
    assert parse(show(cluster), "cluster.yaml") == cluster


# --- the schema for editors ------------------------------------------------------------------------------------------


def test_the_schema_allows_nothing_where_the_file_may_have_nothing():
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["anyOf"] == [{"required": ["models"]}, {"required": ["instances"]}]
    (entry,) = schema["properties"]["models"]["anyOf"][0]["patternProperties"].values()
    assert entry["anyOf"] == [{"$ref": "#/$defs/ModelSettings"}, {"type": "null"}]
    for section in ("models", "instances", "routes", "tiers", "keys", "cache", "limits", "gateway"):
        assert {"type": "null"} in schema["properties"][section]["anyOf"], section
    (tier,) = schema["properties"]["tiers"]["anyOf"][0]["patternProperties"].values()
    assert tier == {"$ref": "#/$defs/TierSettings"}


def test_the_schema_refuses_unknown_keys_everywhere():
    schema = json_schema()
    closed = [schema, *schema["$defs"].values()]
    closed += [schema["properties"][each]["anyOf"][0] for each in ("models", "tiers", "routes")]
    assert [each["additionalProperties"] for each in closed] == [False] * len(closed)


# --- the page and the samples ----------------------------------------------------------------------------------------


def test_the_page_is_what_the_models_say():
    assert (ROOT / "docs" / "configuration.md").read_text() == document(), (
        "settings changed: python -m orchestrator.settings.reference > docs/configuration.md"
    )


def test_the_pages_example_is_in_it_and_names_every_setting(example):
    text = annotated(EXAMPLE)
    assert text in document()
    sections = [ClusterSettings, *(section_of(each.annotation) for each in ClusterSettings.model_fields.values())]
    for section in filter(None, sections):
        for name in section.model_fields:
            assert f"{name}:" in text
    assert example.models.keys() == EXAMPLE.models.keys()
    assert example.tiers == EXAMPLE.tiers
    assert example.routes == EXAMPLE.routes


def _within(section: type[Section]) -> Iterator[type[Section]]:
    """The sections of one, each followed by its own."""
    for field in section.model_fields.values():
        if (inner := section_of(field.annotation)) is not None:
            yield inner
            yield from _within(inner)


def test_the_reference_has_each_field_once_with_its_description():
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    fields = [pair for section in (ClusterSettings, *_within(ClusterSettings)) for pair in section.model_fields.items()]
    assert len(rows) == len(fields)
    for row, (name, field) in zip(rows, fields, strict=True):
        assert row.startswith(f"| `{name}` | ")
        assert field.description
        assert row.endswith(f" | {field.description} |")


def test_the_mistakes_on_the_page_are_told_as_it_says():
    text = (
        "listen: 127.0.0.1:11434\nmodels:\n  llama3.2:3b:\n    slot: 4\n"
        "tiers:\n  small:\n    model: llama3.1:8b\nroutes:\n  auto: {full: small}\n"
    )
    with pytest.raises(SettingsError) as raised:
        parse(text, "cluster.yaml")
    assert f"```\n{raised.value}\n```" in document()


def test_the_sample_at_the_root_is_valid_also_with_its_comments_taken_off(tmp_path, monkeypatch):
    text = (ROOT / "cluster.example.yaml").read_text()
    settings = parse(text, "cluster.example.yaml")
    assert settings.tiers.keys() == {"small", "full"}
    assert settings.routes.keys() == {"auto"}
    monkeypatch.setenv("GROQ_KEY", SECRETS[0])
    monkeypatch.setenv("SUPPORT_KEY", SECRETS[1])
    (tmp_path / "faq.yaml").write_text("[]")
    _, marker, keys_on = text.partition("# keys:\n")
    assert marker
    opened = "\n".join(line.removeprefix("# ") for line in (marker + keys_on).splitlines() if "yourself" not in line)
    full = parse(text.partition(marker)[0] + opened, str(tmp_path / "cluster.yaml"))
    assert [each.name for each in full.keys] == ["support-team"]
    assert full.cache.faq == (tmp_path / "faq.yaml",)


# --- what a changed file changes -------------------------------------------------------------------------------------


def test_only_what_a_start_reads_waits_for_one():
    old = parse("models: {a: }", "cluster.yaml")
    new = parse(
        "models: {b: }\nlisten: 127.0.0.1:1\nredis: redis://h\nengine: ollama\nkeys_file: k\n"
        "gateway: {workers: 5}\nlimits: {queue_length: 3, lease_ttl_s: 5}",
        "cluster.yaml",
    )
    sentences = needs_restart(old, new)
    assert [each.split(" ")[0] for each in sentences] == list(AT_START)
    longer = old.limits.model_copy(update={"queue_length": 3})
    assert needs_restart(old, old.model_copy(update={"limits": longer, "models": new.models})) == ()


def test_the_live_part_of_a_change_needs_no_restart():
    old = parse("models: {a: }", "cluster.yaml")
    new = parse("models: {b: }\nlisten: 127.0.0.1:1\ngateway: {workers: 5}\nlimits: {queue_length: 3}", "cluster.yaml")
    live = live_part(old, new)
    assert needs_restart(old, live) == ()
    assert (live.models, live.limits) == (new.models, new.limits)
    assert (live.listen, live.gateway) == (old.listen, old.gateway)
