"""What the how-to page of models says of providers' variables is what their models read."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from langchain.chat_models.base import _BUILTIN_PROVIDERS

from millstream.agents.models.http import ProviderHttp
from millstream.agents.models.openai.model import OpenAiChatModel
from millstream.agents.models.resolve import _PROVIDERS, resolve_model
from millstream.agents.templates.template import AgentTemplate
from millstream.streams.settings import load_settings
from tests.providers.case_file import PROVIDERS
from tests.providers.server import PlayedProvider, serving

SNIPPETS = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "models.md").read_text("utf-8")
ROWS = {
    row[0]: row[1:]
    for row in re.findall(r"^\| `(\w+):` \| (.+?) \| .+? \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
}


def variables(cell: str) -> list[str]:
    return re.findall(r"`([A-Z_]+)`", cell)


def test_the_page_names_each_provider_with_its_key_and_package() -> None:
    assert ROWS.keys() == _PROVIDERS.keys()
    for name, (_, key, _) in ROWS.items():
        assert variables(key) == [one for one in [_PROVIDERS[name].key_variable] if one]


def test_the_packages_that_the_page_names_are_langchains() -> None:
    for name, (package, _, _) in ROWS.items():
        module, *_ = _BUILTIN_PROVIDERS[name]
        assert package == f"`{module.replace('_', '-')}`"


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_model_is_reached_by_the_variables_that_the_page_names(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key, url = ROWS[name]
    provider = PlayedProvider(
        {"hi": [{"says": ["All ", "is well"]}]}, {}, now_s=asyncio.get_running_loop().time
    )
    http = ProviderHttp()
    async with serving(provider) as served:
        for variable in variables(key):
            monkeypatch.setenv(variable, "key")
        (variable,) = variables(url)
        monkeypatch.setenv(variable, served)
        model = resolve_model(f"{name}:fake", http=http)
        text = [piece.text async for piece in model.astream("hi")]
        await http.close()
    assert "".join(text) == "All is well"
    assert len(provider.calls) == 1


def snippet(language: str, word: str) -> str:
    return next(text for kind, text in SNIPPETS.findall(PAGE) if kind == language and word in text)


def test_the_setting_that_the_page_shows_names_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, value = snippet("sh", "ENDPOINTS").removeprefix("export ").strip().partition("=")
    monkeypatch.setenv(name, value.strip("'"))
    monkeypatch.setenv("VLLM_KEY", "key")
    model = resolve_model("vllm:qwen3-8b", endpoints=load_settings().model_endpoints)
    assert isinstance(model, OpenAiChatModel)
    assert (model.model_name, model.base_url) == ("qwen3-8b", "http://10.0.0.5:8000/v1")


def test_the_template_that_the_page_shows_has_models_that_follow_the_first() -> None:
    template = eval(snippet("python", "models="), {"AgentTemplate": AgentTemplate})  # noqa: S307  our page
    assert template.models == ("openai:gpt-5-mini", "anthropic:claude-haiku-4-5", "local")
