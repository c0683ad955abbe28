"""What `doctor` finds of the models that templates name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from millstream.agents.templates.template import AgentTemplate
from millstream.gateway.checks.models import (
    check_default_model,
    check_template_models,
    template_models_found,
)

FAULTS = {"a:1": "", "b:1": "no key", "default": "", "local": ""}


@pytest.mark.parametrize(
    ("models", "level"),
    [(("a:1",), "ok"), (("default",), "ok"), (("a:1", "b:1"), "note"), (("b:1",), "wrong")],
)
def test_a_model_that_another_follows_is_worth_a_note(models: tuple[str, ...], level: str) -> None:
    template = AgentTemplate(name="answers", models=models)
    (found,) = template_models_found([template], FAULTS, "local")
    assert found.level == level
    if level != "ok":
        assert found.told == "no key (template answers)"
        assert found.remedy


async def test_a_package_and_a_key_that_an_app_s_templates_lack_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_app(
        tmp_path,
        "def make(*, max_tokens): return ScriptedChatModel()",
        'AgentTemplate(name="fast", models=("groq:llama",)),'
        'AgentTemplate(name="wise", models=("openai:gpt-5-mini",)),'
        'AgentTemplate(name="own", models=("mine",)),',
        'models={"mine": make}',
    )
    monkeypatch.setenv("MILLSTREAM_APP", str(tmp_path / "app_of_models.py"))
    monkeypatch.setenv("MILLSTREAM_DEFAULT_MODEL", "mine")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setitem(sys.modules, "langchain_groq", None)
    (default,) = await check_default_model()
    assert (default.level, default.told) == ("ok", "mine")
    package, key = await check_template_models()
    assert package.level == key.level == "wrong"
    assert "`make setup EXTRAS=groq` (template fast)" in package.told
    assert "set OPENAI_API_KEY" in key.told
    assert "(template wise)" in key.told


async def test_an_app_that_does_not_load_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "broken_app.py"
    path.write_text("app = 1 +")
    monkeypatch.setenv("MILLSTREAM_APP", str(path))
    (found,) = await check_template_models()
    assert (found.name, found.level) == ("app", "wrong")
    assert "broken_app.py" in found.told


def write_app(folder: Path, made: str, templates: str, models: str) -> None:
    lines = (
        "from millstream.agents.models.scripted.model import ScriptedChatModel",
        "from millstream.agents.templates.template import AgentTemplate",
        "from millstream.streams.apps.app import App",
        made,
        f'app = App("mine", templates=[{templates}], {models})',
    )
    (folder / "app_of_models.py").write_text("\n".join(lines))
