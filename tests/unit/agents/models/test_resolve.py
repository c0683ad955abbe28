"""From a name to a model, or to words that tell what to do."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import langsmith.utils
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from millstream.agents.models.local.model import LocalChatModel
from millstream.agents.models.resolve import (
    _PROVIDERS,
    MODEL_NAME,
    _lacking,
    _package,
    _require_key,
    _takes,
    extra_of,
    keep_traces_local,
    resolve_model,
)
from millstream.agents.models.scripted.model import ScriptedChatModel
from millstream.agents.models.scripted.script import Say, Turn
from millstream.schemas.errors import Terminal
from millstream.schemas.runs.errors import ModelUnavailable

PROJECT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize("name", ["local", "local:smollm2", "local:smollm2-135m-instruct"])
def test_local_names_share_one_engine(name: str) -> None:
    model = resolve_model(name, temperature=0.0)
    assert isinstance(model, LocalChatModel)
    assert model.temperature == 0.0
    assert model.engine is LocalChatModel().engine


def test_scripted_is_no_model_where_it_is_not_let_in() -> None:
    for name in ("scripted", "scripted:call: mail {}"):
        with pytest.raises(ModelUnavailable, match="set MILLSTREAM_SCRIPTED_MODEL=on on the"):
            resolve_model(name, scripted=False)


def test_scripted_takes_its_script_from_the_name_or_from_the_input() -> None:
    for name, script in (("scripted", None), ("scripted:say: hi", (Turn(Say("hi")),))):
        model = resolve_model(name)
        assert isinstance(model, ScriptedChatModel)
        assert model.script == script


def test_a_model_carries_the_name_that_it_was_resolved_by() -> None:
    model = resolve_model("scripted:say: hi")
    assert model.metadata is not None
    assert model.metadata[MODEL_NAME] == "scripted:say: hi"


def test_an_unreadable_script_is_refused_when_the_model_is_resolved() -> None:
    with pytest.raises(Terminal, match="number"):
        resolve_model("scripted:tokens: x")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "provider:model"),
        ("openai:", "provider:model"),
        ("gpt-5", "provider:model"),
        ("local:other", "use `local`"),
        ("nobody:model", "no provider is called 'nobody'; known are: `anthropic:`, `cohere:`, "),
        ("opeani:gpt-5", "no provider is called 'opeani'; names like it: `openai:`$"),
        ("Google:gemini", "'Google'; names like it: `google_genai:`"),
        ("lokal:smollm2", "names like it: `local:`"),
        ("gpt-5:latest", "no provider is called 'gpt-5'"),
    ],
)
def test_a_model_that_cannot_be_had_says_what_to_do(name: str, says: str) -> None:
    with pytest.raises(ModelUnavailable, match=says):
        resolve_model(name)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("openai:m", "max_tokens"),
        ("anthropic:m", "max_tokens"),
        ("google_genai:m", "max_output_tokens"),
        ("ollama:m", "num_predict"),
    ],
)
def test_a_limit_reaches_each_provider_s_class(name: str, limit: str) -> None:
    with capture_logs() as logs:
        model = resolve_model(name, api_key="key", max_tokens=7)
    assert getattr(model, limit) == 7
    assert logs == []


def test_a_parameter_that_a_class_does_not_know_is_found() -> None:
    model = resolve_model("ollama:m")
    assert _takes(model, "num_predict")
    assert not _takes(model, "max_tokens")
    assert _takes(resolve_model("google_genai:m", api_key="key"), "max_tokens")


@pytest.mark.parametrize(
    ("name", "retries"), [("langchain:openai:m", 0), ("anthropic:m", 0), ("google_genai:m", 1)]
)
def test_no_client_tries_again_by_itself(name: str, retries: int) -> None:
    model = resolve_model(name, api_key="key")
    assert getattr(model, "max_retries") == retries  # noqa: B009  of some classes


class _ModelWithKey(ScriptedChatModel):
    other_api_key: SecretStr | None = None
    provider_api_key: SecretStr = SecretStr("")


def test_an_empty_key_is_reported_before_the_first_call() -> None:
    with pytest.raises(ModelUnavailable, match="set MISTRAL_API_KEY"):
        _require_key(_ModelWithKey(), "mistralai:x", "mistralai")
    _require_key(_ModelWithKey(provider_api_key=SecretStr("key")), "mistralai:x", "mistralai")


def test_traces_stay_local_even_where_the_environment_asks_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    keep_traces_local()
    assert langsmith.utils.tracing_is_enabled() is False


@pytest.mark.parametrize("provider", sorted(_PROVIDERS))
def test_a_model_without_its_package_names_the_command_that_installs_it(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, _package(provider), None)
    extra = "google" if provider == "google_genai" else provider
    told = f"needs {_package(provider).replace('_', '-')}, which is not installed: run "
    error = ImportError("Please install it with `pip install it`")
    assert _lacking(provider, error, is_checkout=True) == f"{told}`make setup EXTRAS={extra}`"
    installed = _lacking(provider, error, is_checkout=False)
    assert installed == f"{told}`pip install 'millstream[{extra}]'`"


@pytest.mark.parametrize(
    ("name", "package", "says"),
    [
        ("groq:llama-4", "langchain-groq", "run `make setup EXTRAS=groq`$"),
        ("mistralai:large", "langchain-mistralai", "run `make setup EXTRAS=mistralai`$"),
        ("perplexity:sonar", "langchain-perplexity", "docs/how-to/models.md says how to"),
    ],
)
def test_a_package_that_is_missing_is_told_of_as_the_model_is_resolved(
    name: str, package: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    with pytest.raises(ModelUnavailable, match=f"needs {package}, which is not installed: {says}"):
        resolve_model(name)


def test_a_provider_that_shares_its_package_is_of_that_package_s_extra() -> None:
    assert extra_of("azure_openai") == "openai"


def test_a_package_that_is_installed_and_breaks_is_not_told_to_be_missing() -> None:
    told = _lacking("openai", ImportError("cannot import name 'x' from 'langchain_core'"))
    assert "not installed" not in told
    assert "cannot import name 'x'" in told


def test_each_provider_of_the_table_has_an_extra_that_is_locked_beside_the_others() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    table = re.findall(
        r"^\| `(\w+):` \| `([\w-]+)` \| `([\w-]+)` ",
        (PROJECT / "docs" / "how-to" / "models.md").read_text(),
        re.MULTILINE,
    )
    assert {provider for provider, _, _ in table} == set(_PROVIDERS)
    extras, base = locked("requirements-extras.lock"), locked("requirements.lock")
    for provider, package, extra in table:
        assert extra == extra_of(provider)
        (wanted,) = project["optional-dependencies"][extra]
        assert re.split("[<>=]", wanted)[0] == package
        assert package in extras
    assert {name: extras[name] for name in extras.keys() & base.keys()} == {
        name: base[name] for name in extras.keys() & base.keys()
    }


def locked(name: str) -> dict[str, str]:
    """Give the packages of a lock and their versions."""
    text = (PROJECT / name).read_text()
    return dict(re.findall(r"^([\w.-]+)==([^ ]+)", text, re.MULTILINE))
