"""The chat model of `openai:` names, and of servers that speak OpenAI's chat completions."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from queue import SimpleQueue
from typing import Any, Final, Literal

from anyio.from_thread import start_blocking_portal
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils import from_env, secret_from_env
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, model_validator
from typing_extensions import override

from millstream.agents.models.dialects.bound import AnswerBound
from millstream.agents.models.dialects.chat_completions import ServerManners, knows_older_limit
from millstream.agents.models.openai.answers import chunk_of_text
from millstream.agents.models.openai.connections import (
    Connections,
    ServerRefused,
    connections_here,
)
from millstream.agents.models.openai.reading import streamed, whole
from millstream.agents.models.openai.request import body_of, told_messages
from millstream.agents.models.openai.structured import response_format_of, structured_output

__all__ = ["KEY_VARIABLE", "OPENAI_URL", "OpenAiChatModel", "speaks_responses"]

KEY_VARIABLE: Final = "OPENAI_API_KEY"
OPENAI_URL: Final = "https://api.openai.com/v1"
# As OpenAI's client calls it, and LangChain before it.
_URL_VARIABLES: Final = ("OPENAI_BASE_URL", "OPENAI_API_BASE")

_CALLED: Final = "/chat/completions"

_REASONING_MODELS: Final = re.compile(r"o\d")
_OF_TOOLS: Final = ("tools", "tool_choice", "parallel_tool_calls")
_LIMITS: Final = ("max_tokens", "max_completion_tokens")
# As LangChain's class takes them to be for the responses.
_OF_RESPONSES: Final = (
    *("reasoning", "include", "truncation", "context_management", "use_previous_response_id"),
    "output_version",
)
_RESPONSES_MODELS: Final = re.compile(r"^gpt-5[.\d]*-pro|^gpt-5\.6-sol|codex|^gpt-6")
# What LangChain's class takes and its server is not sent.
_PASSED_OVER: Final = frozenset(
    {"max_retries", "streaming", "model_kwargs", "extra_body", "use_responses_api"}
)


def speaks_responses(model: str, params: Mapping[str, Any]) -> bool:
    """Whether a model is one that OpenAI serves by its responses only, or it is asked to be so."""
    if isinstance(asked := params.get("use_responses_api"), bool):
        return asked
    by_params = any(params.get(name) is not None for name in _OF_RESPONSES)
    return by_params or bool(_RESPONSES_MODELS.search(model))


class OpenAiChatModel(BaseChatModel):
    """A model behind a server that speaks OpenAI's chat completions.

    It gives the messages, calls of tools, usage and events that LangChain's `ChatOpenAI` gives, and
    of streams and bodies also what that one passes over (`docs/how-to/models.md`). Parameters that
    it does not know go into the request's body as `options`. `connections` are those by which it
    calls; none given: those of the event loop in which it is called.

    Calls raise `ServerRefused` for an answer with a status from 400 on, `ModelFailed` for a stream
    that broke off or cannot be read, the errors of aiohttp for a broken connection, and what an
    error that is told in a body of status 200 means.
    """

    model_config = ConfigDict(populate_by_name=True, arbitrary_types_allowed=True)

    model_name: str = Field(alias="model")
    base_url: str = Field(default_factory=from_env(_URL_VARIABLES, default=OPENAI_URL))
    api_key: SecretStr | None = Field(default_factory=secret_from_env(KEY_VARIABLE, default=None))
    organization: str | None = Field(default_factory=from_env("OPENAI_ORG_ID", default=None))
    project: str | None = Field(default_factory=from_env("OPENAI_PROJECT_ID", default=None))
    default_headers: Mapping[str, str] = Field(default_factory=dict, repr=False)
    max_tokens: int | None = Field(default=None, ge=1)
    stream_usage: bool = True
    options: dict[str, Any] = Field(default_factory=dict)
    connections: Connections | None = Field(default=None, exclude=True, repr=False)

    _manners: ServerManners = PrivateAttr(default_factory=ServerManners)

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, values: dict[str, Any]) -> dict[str, Any]:
        known: set[str] = set()
        for name, field in cls.model_fields.items():
            known |= {name, field.alias or name}
        options = {
            **values.get("options", {}),
            **(values.get("model_kwargs") or {}),
            **(values.get("extra_body") or {}),
        }
        taken: dict[str, Any] = {}
        for name, value in values.items():
            if value is None:
                continue
            if name in known:
                taken[name] = value
            elif name == "max_completion_tokens":
                taken["max_tokens"] = value
            elif name not in _PASSED_OVER:
                options[name] = value
        return {**taken, "options": options}

    @property
    @override
    def _llm_type(self) -> str:
        return "openai-chat"

    @property
    @override
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, **self._params()}

    @override
    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        shown: dict[str, Any] = {"model": self.model_name, "_type": self._llm_type, "stop": stop}
        return {**shown, **self._params(), **kwargs}

    @override
    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="openai", ls_model_name=self.model_name, ls_model_type="chat"
        )
        temperature = kwargs.get("temperature", self.options.get("temperature"))
        if temperature is not None:
            params["ls_temperature"] = temperature
        if self.max_tokens is not None:
            params["ls_max_tokens"] = self.max_tokens
        if stop:
            params["ls_stop"] = stop
        return params

    @override
    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        response_format: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to each call.

        `tool_choice` is a tool's name, `auto`, `none`, `any` or `required` (`True`), or the object
        that OpenAI has for it. With a `response_format`, tools are `strict` unless told otherwise.
        """
        if response_format and strict is not False:
            strict = True
        offered = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        names = {tool["function"]["name"] for tool in offered if "function" in tool}
        if tool_choice:
            kwargs["tool_choice"] = _choice(tool_choice, names)
        if response_format:
            kwargs["response_format"] = response_format_of(response_format)
        return self.bind(tools=offered, **kwargs)

    @override
    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Literal["function_calling", "json_mode", "json_schema"] = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Have the model answer by a schema, as `ChatOpenAI` does; gives what it says, parsed."""
        return structured_output(
            self, schema, include_raw=include_raw, method=method, strict=strict, **kwargs
        )

    async def pieces(
        self, messages: Sequence[BaseMessage], stop: list[str] | None = None, **kwargs: Any
    ) -> AsyncGenerator[str | ChatGenerationChunk, None]:
        """Give the pieces of an answer as `_astream` does, and those that are but text as text."""
        while True:
            try:
                async with aclosing(self._answer(messages, stop, kwargs)) as pieces:
                    async for piece in pieces:
                        yield piece
            except ServerRefused as refusal:
                if not self._manners.learn(refusal):
                    raise
            else:
                return

    def chunk_of_text(self, text: str) -> ChatGenerationChunk:
        """Give the chunk that `_astream` gives for a text."""
        return chunk_of_text(text)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(self.pieces(messages, stop, **kwargs)) as pieces:
            async for piece in pieces:
                yield chunk_of_text(piece) if isinstance(piece, str) else piece

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        while True:
            payload = self._payload(messages, stop, kwargs)
            try:
                async with (
                    self._connected() as connections,
                    connections.post(self._url, self._headers(), body_of(payload)) as response,
                ):
                    return await whole(response, self.model_name)
            except ServerRefused as refusal:
                if not self._manners.learn(refusal):
                    raise

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        came: SimpleQueue[ChatGenerationChunk | None] = SimpleQueue()
        own = self._apart()

        async def call() -> None:
            try:
                async for chunk in own._astream(messages, stop, **kwargs):  # noqa: SLF001
                    came.put(chunk)
            finally:
                came.put(None)

        with start_blocking_portal() as portal:
            called = portal.start_task_soon(call)
            try:
                while (chunk := came.get()) is not None:
                    yield chunk
            except GeneratorExit:
                called.cancel()
                raise
            called.result()

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with start_blocking_portal() as portal:
            own = self._apart()
            return portal.call(lambda: own._agenerate(messages, stop, **kwargs))  # noqa: SLF001

    def _apart(self) -> OpenAiChatModel:
        """Give the same model for one call in an event loop of its own."""
        return self.model_copy(update={"connections": None})

    @property
    def _url(self) -> str:
        # Azure's holds its version as a query; some give the whole address of the call.
        address, mark, query = self.base_url.partition("?")
        address = address.rstrip("/").removesuffix(_CALLED)
        return f"{address}{_CALLED}{mark}{query}"

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", **self.default_headers}
        if self.api_key is not None and (key := self.api_key.get_secret_value().strip()):
            headers["authorization"] = f"Bearer {key}"
        if self.organization:
            headers["openai-organization"] = self.organization
        if self.project:
            headers["openai-project"] = self.project
        return headers

    def _params(self) -> dict[str, Any]:
        limit = {} if self.max_tokens is None else {self._limit_name: self.max_tokens}
        return {**self.options, **limit}

    @property
    def _limit_name(self) -> str:
        older = knows_older_limit(self.base_url, self.model_name)
        return (
            "max_tokens" if older and not self._manners.has_newer_limit else "max_completion_tokens"
        )

    def _payload(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        payload = {"model": self.model_name, **self.options, **options}
        given = [payload.pop(name) for name in _LIMITS if name in payload]
        if limit := given[-1] if given else self.max_tokens:
            payload[self._limit_name] = limit
        if stop is not None:
            payload["stop"] = stop
        if (form := payload.get("response_format")) is not None:
            payload["response_format"] = response_format_of(form)
        if not payload.get("tools"):
            # Of no tools OpenAI says that the list is too short.
            for name in _OF_TOOLS:
                payload.pop(name, None)
        # What OpenAI's reasoning models call the role of their instructions.
        role = "developer" if _REASONING_MODELS.match(self.model_name) else "system"
        sees = (self.profile or {}).get("image_inputs") is True
        payload["messages"] = told_messages(messages, role, sees=sees)
        return payload

    def _connected(self) -> AbstractAsyncContextManager[Connections]:
        own = self.connections
        return nullcontext(own) if own is not None and own.are_here else connections_here()

    async def _answer(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, options: dict[str, Any]
    ) -> AsyncGenerator[str | ChatGenerationChunk, None]:
        payload = {**self._payload(messages, stop, options), "stream": True}
        if self.stream_usage and self._manners.tells_usage:
            payload["stream_options"] = {"include_usage": True}
        body = body_of(payload)
        async with (
            self._connected() as connections,
            connections.post(self._url, self._headers(), body) as response,
        ):
            bound = None if self.max_tokens is None else AnswerBound(self.max_tokens)
            async with aclosing(streamed(response, bound)) as pieces:
                async for piece in pieces:
                    yield piece


def _choice(choice: Any, names: set[str]) -> Any:
    if isinstance(choice, str):
        if choice in names:
            return {"type": "function", "function": {"name": choice}}
        # Others call so what OpenAI calls `required`.
        return "required" if choice == "any" else choice
    return "required" if choice is True else choice
