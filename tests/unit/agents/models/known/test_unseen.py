"""How much of what a model writes can be seen, by its class, its profile and its name."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel

from millstream.agents.models.known.profiles import NO_PROFILE
from millstream.agents.models.known.unseen import SHOWN, Shown, shown_by
from millstream.agents.models.resolve import resolve_model
from millstream.schemas.endpoints import ModelEndpoint


def fake(**given: Any) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter(()), **given)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, "unknown"),
        ({"profile": {"reasoning_output": False}}, "all"),
        ({"profile": {"reasoning_output": True}}, "part"),
        ({"profile": {"reasoning_output": False}, "disable_streaming": True}, "nothing"),
        ({"profile": {}, "disable_streaming": "tool_calling"}, "nothing"),
    ],
)
def test_an_apps_own_model_is_known_by_its_profile(given: dict[str, Any], shown: Shown) -> None:
    assert shown_by(fake(**given), NO_PROFILE) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("local", "all"),
        ("scripted", "all"),
        ("openai:gpt-4o", "all"),
        ("openai:gpt-3.5-turbo-0125", "all"),
        ("openai:gpt-5-mini", "part"),
        ("openai:o3-2025-04-16", "part"),
        ("openai:of-somebody", "unknown"),
        ("langchain:openai:gpt-4o", "all"),
        ("anthropic:claude-sonnet-4-5", "part"),
        ("vllm:qwen", "unknown"),
    ],
)
def test_a_model_is_known_by_its_name(
    name: str, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(variable, "key")
    endpoints = {"vllm": ModelEndpoint(base_url="http://127.0.0.1:1/v1")}
    model = resolve_model(name, endpoints=endpoints)
    assert (model.metadata or {})[SHOWN] == shown
