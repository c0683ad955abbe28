"""Models on OpenAI's client: chat completions, as many servers speak them, and responses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from millstream.agents.models.body_watch import WATCHING, BodyWatch
from millstream.agents.models.dialects.chat_completions import (
    ServerManners,
    add_unread,
    knows_older_limit,
    report_in,
    with_native_error,
)
from millstream.agents.models.dialects.reading import Reading
from millstream.agents.models.errors import error_in
from millstream.agents.models.reports import bad_count, clean_report
from millstream.agents.models.usage import DOUBT
from millstream.schemas.errors import ModelFailed

__all__ = ["OpenAiReading", "check_reports_of_responses"]

_RESPONSES_COUNTS: Final = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "input_tokens_details",
    "output_tokens_details",
)


class OpenAiReading(Reading):
    """Reads what servers that speak OpenAI's dialects send beside what OpenAI does."""

    __slots__ = ()

    model_name: str
    root_async_client: Any
    stream_usage: bool | None
    _manners: ServerManners

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        while True:
            try:
                async with aclosing(self._read(*args, **kwargs)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except Exception as error:
                if not self._learns_from(error):
                    raise
            else:
                return

    def _learns_from(self, refusal: Exception) -> bool:
        learned = self._manners.learn(refusal)
        if not self._manners.tells_usage:
            object.__setattr__(self, "stream_usage", False)
        return learned

    def _look_at(self, chunk: ChatGenerationChunk, watch: BodyWatch) -> None:
        if watch.noted is not None:
            chunk.generation_info = {**(chunk.generation_info or {}), DOUBT: watch.noted}
            watch.noted = None

    def _tells_its_end(self, chunk: ChatGenerationChunk) -> bool:
        """Whether a chunk says that the answer is whole.

        By being the last, of OpenAI's responses; or, where the reason stays null (older versions of
        Ollama), by the report of usage, which comes behind all text.
        """
        message = chunk.message
        if not isinstance(message, AIMessageChunk):
            return False
        if message.chunk_position == "last":
            return True
        return (
            message.usage_metadata is not None and "model_provider" not in message.response_metadata
        )

    def _whole(self, body: Any) -> ChatGenerationChunk | None:
        """Read an answer whose server does not stream though it was asked to."""
        if not isinstance(body, Mapping):
            return None
        if body.get("object") == "response" and not body.get("error"):
            return self._whole_response(body)
        choices = body.get("choices")
        if not choices or not isinstance(message := choices[0].get("message"), Mapping):
            return None
        calls = [
            {"index": index, **call} for index, call in enumerate(message.get("tool_calls") or ())
        ]
        delta = {**message, "tool_calls": calls or None}
        choice = {**choices[0], "delta": delta}
        return self._convert_chunk_to_generation_chunk(
            {**body, "choices": [choice]}, AIMessageChunk, None
        )

    def _whole_response(self, body: Mapping[str, Any]) -> ChatGenerationChunk:
        from langchain_openai.chat_models.base import (  # noqa: PLC0415  not a dependency of ours
            _construct_lc_result_from_responses_api,
        )
        from openai.types.responses import Response  # noqa: PLC0415  as above

        result = _construct_lc_result_from_responses_api(Response.construct(**body))
        said = result.generations[0].message
        assert isinstance(said, AIMessage)  # noqa: S101
        pieces = [
            {
                "type": "tool_call_chunk",
                "name": item.get("name"),
                "args": item.get("arguments"),
                "id": item.get("call_id"),
                "index": index,
            }
            for index, item in enumerate(body.get("output") or ())
            if item.get("type") == "function_call"
        ]
        return ChatGenerationChunk(
            message=AIMessageChunk(
                content=said.content,
                additional_kwargs=said.additional_kwargs,
                response_metadata=said.response_metadata,
                usage_metadata=said.usage_metadata,
                tool_call_chunks=pieces,
                chunk_position="last",
            )
        )

    def _get_request_payload(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        payload: dict[str, Any] = super()._get_request_payload(*args, **kwargs)  # type: ignore[misc]
        older = knows_older_limit(str(self.root_async_client.base_url), self.model_name)
        if "max_completion_tokens" in payload and older and not self._manners.has_newer_limit:
            payload["max_tokens"] = payload.pop("max_completion_tokens")
        return payload

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], *args: Any
    ) -> ChatGenerationChunk | None:
        if (error := error_in(chunk)) is not None:
            raise error
        doubt = None
        if (report := report_in(chunk)) is not None:
            chunk["usage"], doubt = clean_report(report)
        chunk = with_native_error(chunk)
        made: ChatGenerationChunk | None = super()._convert_chunk_to_generation_chunk(  # type: ignore[misc]
            chunk, *args
        )
        if made is None:
            return None
        if doubt is not None:
            made.generation_info = {**(made.generation_info or {}), DOUBT: doubt}
        choices = chunk.get("choices")
        delta = choices[0].get("delta") if choices else None
        if delta:
            add_unread(delta, made.message.additional_kwargs)
        return made

    def _create_chat_result(self, response: Any, generation_info: Any = None) -> ChatResult:
        told = response if isinstance(response, Mapping) else None
        if told is None and hasattr(response, "model_dump"):
            told = response.model_dump(exclude={"choices": {"__all__": {"message": {"parsed"}}}})
        if told is None or not told.get("choices"):
            raise error_in(told) or ModelFailed(
                f"the model's provider answered with no completion: {str(response)[:200]!r}",
                may_cost=True,
                is_over=True,
            )
        report, whole = report_in(told), with_native_error(dict(told))
        cleaned, doubt = (None, None) if report is None else clean_report(report)
        if doubt is not None or report is not told.get("usage") or whole != told:
            response = {**whole, "usage": cleaned}
        made: ChatResult = super()._create_chat_result(response, generation_info)  # type: ignore[misc]
        for generation, choice in zip(made.generations, told["choices"], strict=False):
            if doubt is not None:
                generation.message.response_metadata[DOUBT] = doubt
            add_unread(choice.get("message") or {}, generation.message.additional_kwargs)
        return made


def check_reports_of_responses(model: Any) -> None:
    """Have the reports of OpenAI's responses checked before a class of LangChain's reads them.

    It refuses a whole answer for a report that holds something else than counts. The class takes
    no part in reading the event, so its client does.
    """
    client = getattr(model, "root_async_client", None)
    read = getattr(client, "_process_response_data", None)
    if client is None or read is None:
        return

    def checked(*, data: Any, **kwargs: Any) -> Any:
        told = data.get("response") if isinstance(data, Mapping) else None
        report = told.get("usage") if isinstance(told, Mapping) else None
        if isinstance(told, Mapping) and isinstance(report, Mapping):
            for name in _RESPONSES_COUNTS:
                if (bad := bad_count(report.get(name))) is not None:
                    if (watch := WATCHING.get()) is not None:
                        watch.noted = f"{name} is reported as {str(bad)[:40]}"
                    data = {**data, "response": {**told, "usage": None}}
        return read(data=data, **kwargs)

    client._process_response_data = checked  # noqa: SLF001
