"""How much a model reads and writes, by its name, its profile or what an endpoint declares."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.language_models.chat_models import BaseChatModel

from millstream.agents.models.known import profiles
from millstream.agents.models.known.windows import (
    UNKNOWN_WINDOW,
    Window,
    window_of,
    windows_of_own,
)
from millstream.schemas.endpoints import ModelEndpoint


@pytest.mark.parametrize(
    ("name", "window"),
    [
        ("local", Window(2048)),
        ("local:smollm2", Window(2048)),
        ("scripted", UNKNOWN_WINDOW),
        ("scripted:say: x", UNKNOWN_WINDOW),
        ("openai:gpt-4o", Window(128_000, 16_384)),
        ("langchain:openai:gpt-4o", Window(128_000, 16_384)),
        ("anthropic:claude-sonnet-4-5", Window(200_000, 64_000)),
        ("xai:grok-4", Window(256_000)),  # no profile here: by genai-prices
        ("openai:of-somebody", UNKNOWN_WINDOW),
        ("ollama:llama3.2", UNKNOWN_WINDOW),  # as its server was told
        ("nobody:gpt-4o", UNKNOWN_WINDOW),
        ("gpt-4o", UNKNOWN_WINDOW),
        ("openai:" + "x" * 1000, UNKNOWN_WINDOW),
    ],
)
def test_a_model_is_known_by_its_name(name: str, window: Window) -> None:
    assert window_of(name) == window


def test_an_endpoint_is_what_is_declared_of_it_whatever_its_models_are_called() -> None:
    url = "http://127.0.0.1:1/v1"
    endpoints = {
        "vllm": ModelEndpoint(base_url=url, context_tokens_max=32_768, output_tokens_max=8_192),
        "openai:gpt-4o": ModelEndpoint(base_url=url),
    }
    assert window_of("vllm:qwen", endpoints=endpoints) == Window(32_768, 8_192)
    assert window_of("openai:gpt-4o", endpoints=endpoints) == UNKNOWN_WINDOW
    assert window_of("openai:gpt-4o-mini", endpoints=endpoints).context_tokens == 128_000


def test_an_apps_own_model_is_made_once_and_its_profile_read() -> None:
    made: list[dict[str, Any]] = []

    def big(**params: Any) -> BaseChatModel:
        made.append(params)
        profile: Any = {"max_input_tokens": 50_000}
        return GenericFakeChatModel(messages=iter(()), profile=profile)

    def broken(**params: Any) -> BaseChatModel:
        raise RuntimeError(params)

    own = windows_of_own({"big": big, "broken": broken, "odd": lambda **_: 7})  # type: ignore[dict-item,return-value]
    for _ in range(2):
        assert window_of("big", own=own) == Window(50_000)
    assert window_of("broken", own=own) == window_of("odd", own=own) == UNKNOWN_WINDOW
    assert made == [{"max_tokens": 256}]


def test_profiles_are_read_without_importing_the_providers_package() -> None:
    program = (
        "import sys; from millstream.agents.models.known.windows import window_of; "
        "assert window_of('local').context_tokens == 2048; "
        "assert 'genai_prices' not in sys.modules; "
        "assert window_of('openai:gpt-4o').context_tokens == 128_000; "
        "assert 'langchain_openai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_package_whose_profiles_are_missing_or_broken_says_nothing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("without", None), ("broken", "_PROFILES = 1 /"), ("other", "X = 1")):
        folder = tmp_path / f"pkg_{name}" / "data"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        if text is not None:
            (folder / "_profiles.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("pkg_without", "pkg_broken", "pkg_other", "pkg_nowhere"):
        assert profiles._published(name) == {}
