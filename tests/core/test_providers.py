"""The catalogue of providers: prices and quotas of the owner's documents, found however a model is spelled."""

from __future__ import annotations

from datetime import date

import pytest

from orchestrator.core.providers import named, narrowed, table
from orchestrator.core.target import Budget, Price
from orchestrator.settings.syntax import check_provider_url


def test_the_table_says_of_which_day_it_is_and_where_it_is_from():
    assert date.fromisoformat(table().written_on).isoformat() == table().written_on
    assert "documents" in table().source
    for known in table().providers.values():
        assert check_provider_url(known.url) == known.url
        assert known.url.startswith("https://")
        assert known.page.startswith("https://")


@pytest.mark.parametrize(
    ("provider", "model", "prompt", "completion"),
    [
        ("mistral", "open-mistral-nemo", 0.15, 0.15),
        ("openai", "gpt-3.5-turbo", 0.50, 1.50),
        ("openai", "gpt-4.1-mini", 0.40, 1.60),
        ("openai", "gpt-4.1-nano-2025-04-14", 0.10, 0.40),
        ("deepseek", "deepseek-reasoner", 0.14, 2.19),
        ("gemini", "gemini-1.5-flash-8b", 0.0375, 0.15),
        ("gemini", "models/gemini-2.0-flash", 0.10, 0.40),
        ("gemini", "gemini-2.0-flash-lite-001", 0.075, 0.30),
        ("gemini", "gemini-2.5-flash-preview-05-20", 0.15, 0.60),
        ("gemini", "Gemini-2.5-Pro", 1.25, 10.0),
        ("anthropic", "claude-3-5-haiku-20241022", 0.80, 4.0),
        ("anthropic", "claude-3-5-haiku-latest", 0.80, 4.0),
        ("openrouter", "meta-llama/llama-3.3-70b-instruct:free", 0.0, 0.0),
    ],
)
def test_a_price_is_found_under_each_spelling_of_a_model(provider, model, prompt, completion):
    assert table().providers[provider].price_of(model) == Price(prompt, completion)


@pytest.mark.parametrize(
    ("provider", "model"),
    [("gemini", "gemini-2.5-flash-lite"), ("openai", "gpt-4.1"), ("openrouter", "meta-llama/llama-3.3-70b-instruct")],
)
def test_another_model_has_no_price_by_likeness(provider, model):
    assert table().providers[provider].price_of(model) is None


def test_free_quotas_are_those_of_the_documents():
    providers = table().providers
    # 1 request a second, 500K tokens a minute, 1G tokens a month.
    assert providers["mistral"].account_of("free") == Budget(rpm=60, tpm=500_000, tpd=1_000_000_000 // 31)
    assert providers["openrouter"].account_of("free").rpd == 50
    assert providers["openrouter"].account_of("credit").rpd == 1000
    groq = providers["groq"]
    assert groq.quota_of("free", "meta-llama/llama-4-scout-17b-16e-instruct") == Budget(tpm=30_000, tpd=500_000)
    assert groq.quota_of("free", "moonshotai/kimi-k2-instruct") == Budget(rpm=60, tpd=300_000)
    assert groq.quota_of("free", "openai/gpt-oss-120b") == Budget(tpm=8_000, tpd=200_000)
    assert groq.quota_of("free", "llama-3.3-70b-versatile") == Budget(tpd=100_000)
    assert groq.quota_of("free", "another").is_endless
    assert groq.quota_of("", "openai/gpt-oss-120b").is_endless


def test_what_the_settings_say_of_a_limit_comes_before_the_plan():
    assert narrowed(Budget(tpm=5), Budget(tpm=9, tpd=7)) == Budget(tpm=5, tpd=7)


def test_dollars_are_for_a_million_tokens():
    assert Price(1.25, 10).of(1_000_000, 500_000) == 6.25


def test_a_name_with_a_star_is_a_pattern_of_whole_names():
    assert named({"*:free": 1}, "a/b:free") == 1
    assert named({"*:free": 1}, "a/b:freed") is None
