"""What a provider answers decides whether a run is tried again, by the type of the error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from millstream.agents.attempt import RunOutcome
from millstream.agents.factory import AgentFactory
from millstream.agents.models.errors import as_foreseen, error_in
from millstream.agents.models.resolve import resolve_model
from millstream.schemas.errors import ModelFailed
from millstream.schemas.runs.errors import InputTooLong, ModelUnavailable, QuotaExhausted
from tests.harness.agent_runs import Runs


class Provider:
    """Answers each call with a status, and counts them."""

    def __init__(self, status: int) -> None:
        self._status = status
        self.calls = 0

    async def complete(self, _request: web.Request) -> web.StreamResponse:
        self.calls += 1
        return web.json_response({"error": {"message": "not now"}}, status=self._status)


@asynccontextmanager
async def serving(provider: Provider) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", provider.complete)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def asked(url: str) -> RunOutcome:
    def resolve(name: str, **params: object) -> object:
        return resolve_model(name, base_url=url, api_key="key", **params)

    factory = AgentFactory(default_model="openai:one", resolve=resolve)  # type: ignore[arg-type]
    return await Runs(factory).run("hello")


@pytest.mark.parametrize(
    ("status", "retryable", "code"),
    [
        (429, True, "model_failed"),
        (500, True, "model_failed"),
        (503, True, "model_failed"),
        (408, True, "model_failed"),
        (400, False, "failed"),
        (404, False, "model_unavailable"),
        (401, False, "model_unavailable"),
    ],
)
async def test_a_provider_s_status_says_whether_to_try_again(
    status: int, code: str, *, retryable: bool
) -> None:
    provider = Provider(status)
    async with serving(provider) as url:
        outcome = await asked(url)
    assert outcome.result.reason is not None
    assert (outcome.retryable, outcome.result.reason.code) == (retryable, code)
    assert str(status) in outcome.result.reason.message
    assert provider.calls == 1  # the client does not try again behind the lane's back


async def test_a_provider_that_is_not_there_may_be_there_later() -> None:
    async with serving(Provider(200)) as url:
        pass
    outcome = await asked(url)
    assert outcome.retryable
    assert outcome.result.reason is not None
    assert outcome.result.reason.code == "model_failed"
    assert outcome.result.usage.is_none  # it was never sent
    assert all(call.estimate_reason is None for call in outcome.calls)


class GoogleError(Exception):
    """As Google's client raises it: the status in `code`, the body in `details`."""

    def __init__(self, code: int, status: str, message: str) -> None:
        super().__init__(f"{code} {status}. {message}")
        self.code = code
        self.details = {"error": {"code": code, "status": status, "message": message}}


class AnthropicError(Exception):
    """As Anthropic's client raises it: the status, and the body with its envelope."""

    def __init__(self, status_code: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.body = {"type": "error", "error": {"type": kind, "message": message}}


class OllamaError(Exception):
    """As Ollama's client raises it: words and a status."""

    def __init__(self, message: str, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (GoogleError(429, "RESOURCE_EXHAUSTED", "later"), ModelFailed),
        (GoogleError(503, "UNAVAILABLE", "overloaded"), ModelFailed),
        (GoogleError(400, "INVALID_ARGUMENT", "The input token count (9) exceeds"), InputTooLong),
        (GoogleError(403, "PERMISSION_DENIED", "no"), ModelUnavailable),
        (AnthropicError(529, "overloaded_error", "Overloaded"), ModelFailed),
        (AnthropicError(200, "overloaded_error", "Overloaded"), ModelFailed),
        (AnthropicError(413, "request_too_large", "too large"), InputTooLong),
        (
            AnthropicError(400, "invalid_request_error", "Your credit balance is too low"),
            QuotaExhausted,
        ),
        (OllamaError("model 'x' not found", 404), ModelUnavailable),
        (OllamaError("the input length exceeds maximum context length", 400), InputTooLong),
    ],
)
def test_other_providers_errors_mean_the_same(error: Exception, kind: type[Exception]) -> None:
    assert type(as_foreseen(error)) is kind


def _raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_words_that_langchain_raises_from_googles_error_mean_what_that_means() -> None:
    inner = GoogleError(429, "RESOURCE_EXHAUSTED", "Please retry in 7.5s.")
    error = as_foreseen(_raised_from(ValueError("Error calling model"), inner))
    assert isinstance(error, ModelFailed)
    assert error.retry_after_s == 7.5


class BodyBroke(Exception):
    """As aiohttp raises it over half a body."""

    code = 400


class APIConnectionError(Exception):
    """As providers' clients raise it."""


def test_a_code_of_the_connection_is_no_status() -> None:
    error = as_foreseen(_raised_from(APIConnectionError("Connection error."), BodyBroke("half")))
    assert isinstance(error, ModelFailed)
    assert error.may_cost


@pytest.mark.parametrize(
    ("words", "wait_s"),
    [
        ("Please try again in 1m26.4s. Visit", 86.4),
        ("Please retry after 26 seconds.", 26.0),
        ("try again in 250ms", 0.25),
        ("please try again later", None),
        ("try again " * 100_000, None),
    ],
)
def test_the_wait_is_read_from_words(words: str, wait_s: float | None) -> None:
    error = error_in({"error": {"code": "rate_limit_exceeded", "message": words}})
    assert isinstance(error, ModelFailed)
    assert error.retry_after_s == wait_s
