"""From a name to a model, or to words that tell what to do."""

from __future__ import annotations

import langsmith.utils
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from millstream.agents.models.local.model import LocalChatModel
from millstream.agents.models.resolve import (
    MODEL_NAME,
    _require_key,
    _takes,
    keep_traces_local,
    resolve_model,
)
from millstream.agents.models.scripted.model import ScriptedChatModel
from millstream.agents.models.scripted.script import Say, Turn
from millstream.schemas.errors import ModelUnavailable, Terminal


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
        ("groq:llama-4", "pip install langchain-groq"),
        ("mistralai:large", "pip install langchain-mistralai"),
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
