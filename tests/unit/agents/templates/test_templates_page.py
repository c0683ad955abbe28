"""What the how-to page of templates shows is what can be written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware

from millstream.agents.factory import AgentFactory
from millstream.agents.templates.memory import LastTurns, Memory, NoMemory, Summary, TokenBudget
from millstream.agents.templates.named_middlewares import BUILT_IN_MIDDLEWARES
from millstream.agents.templates.prompt import PromptVariable
from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.errors import Misconfigured
from millstream.streams.apps.app import App
from millstream.streams.apps.checks import parts_of
from millstream.streams.template_files import load_template

PAGE = (Path(__file__).parents[4] / "docs" / "how-to" / "templates.md").read_text("utf-8")
SNIPPETS: list[tuple[str, str]] = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


class Polite(AgentMiddleware[Any, Any, Any]):
    """Of an app's own."""


def snippet(language: str, word: str) -> str:
    return next(text for kind, text in SNIPPETS if kind == language and word in text)


def test_the_template_in_python_can_be_registered() -> None:
    names = {
        "AgentTemplate": AgentTemplate,
        "PromptVariable": PromptVariable,
        "TokenBudget": TokenBudget,
    }
    template = eval(snippet("python", "AgentTemplate("), names)  # noqa: S307  our page
    AgentFactory().register(template)
    assert template.models[-1] == "default"


def test_an_app_gives_middlewares_of_its_own() -> None:
    app = eval(snippet("python", "App("), {"App": App, "Polite": Polite})  # noqa: S307  our page
    factory = parts_of(app).factory()
    factory.register(
        AgentTemplate.model_validate({"name": "a", "middlewares": [{"name": "polite"}]})
    )


def test_the_template_in_yaml_can_be_registered_and_its_mistake_is_told(tmp_path: Path) -> None:
    text = snippet("yaml", "system_prompt_file")
    (tmp_path / "orders.md").write_text("Help {customer_name}.")
    file = tmp_path / "orders.yaml"
    file.write_text(text)
    AgentFactory().register(load_template(file))
    file.write_text(text.replace(", tokens_max", ", token_max").replace("\nkind:", "\n\nkind:"))
    with pytest.raises(Misconfigured) as refused:
        load_template(file)
    told = str(refused.value).replace(str(tmp_path) + "/", "")
    shown = snippet("text", "error:").removeprefix("error: ").strip()
    assert re.sub(r"line \d+", "line", told) == re.sub(r"line \d+", "line", shown)


def test_the_page_names_each_field_strategy_and_middleware() -> None:
    told = set(re.findall(r"`(\w+)`", PAGE))
    assert told >= AgentTemplate.model_fields.keys()
    assert told >= set(BUILT_IN_MIDDLEWARES)
    strategies: tuple[Memory, ...] = (NoMemory(), LastTurns(), TokenBudget(), Summary())
    for strategy in strategies:
        assert strategy.strategy in told
        assert told >= type(strategy).model_fields.keys()
