"""What llama.cpp tells of its model's template, in Ollama's words."""

from __future__ import annotations

import pytest

from orchestrator.core.abilities import abilities_of


@pytest.mark.parametrize(
    ("props", "abilities"),
    [
        ({"chat_template_caps": {"supports_tools": False, "supports_tool_calls": False}}, {"completion"}),
        ({"chat_template_caps": {"supports_tools": True}}, {"completion", "tools"}),
        ({"chat_template_caps": {}, "chat_template": "{% if enable_thinking %}"}, {"completion", "thinking"}),
        ({"chat_template_caps": {}, "chat_template": "{{ '<think>' }}"}, {"completion", "thinking"}),
        (
            {"chat_template_caps": {}, "chat_template": "I think {{ x }}", "modalities": {"vision": False}},
            {"completion"},
        ),
        ({"chat_template_caps": {}, "modalities": {"vision": True, "audio": True}}, {"completion", "vision"}),
        ({"chat_template_caps": {}, "chat_template": None, "modalities": "text"}, {"completion"}),
        ({"chat_template": "<think>", "modalities": {"vision": True}}, set()),
        ({}, set()),
    ],
)
def test_what_a_template_has_a_place_for_its_model_can_do(props, abilities):
    assert set(abilities_of(props)) == abilities
