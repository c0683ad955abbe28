"""Answers by a schema: how a call asks for them, and how they are parsed."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import (
    JsonOutputKeyToolsParser,
    PydanticToolsParser,
)
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import (
    convert_to_openai_function,
    convert_to_openai_tool,
)
from pydantic import BaseModel

from millstream.schemas.runs.errors import ContentRefused

if TYPE_CHECKING:
    from millstream.agents.models.openai.model import OpenAiChatModel

__all__ = ["response_format_of", "structured_output"]


def response_format_of(form: Any, *, strict: bool | None = None) -> dict[str, Any]:
    """Give a schema, a class, or what is one already, as the option `response_format`."""
    if isinstance(form, Mapping):
        if form.get("type") in {"json_schema", "json_object", "text"} and (
            form["type"] != "json_schema" or "json_schema" in form
        ):
            return dict(form)
        if "name" in form and "schema" in form:
            return {"type": "json_schema", "json_schema": dict(form)}
        if strict is None and isinstance(form.get("strict"), bool):
            strict = form["strict"]
    elif strict is None:
        strict = True  # as OpenAI's client has it for a class
    function = convert_to_openai_function(form, strict=bool(strict))
    function["schema"] = function.pop("parameters")
    return {"type": "json_schema", "json_schema": function}


def structured_output(
    model: OpenAiChatModel,
    schema: dict[str, Any] | type,
    *,
    include_raw: bool,
    method: Literal["function_calling", "json_mode", "json_schema"],
    strict: bool | None,
    **kwargs: Any,
) -> Runnable[Any, Any]:
    """Give a model that answers by a schema: what it says parsed, or the class's instance.

    `include_raw`: gives `raw`, `parsed` and `parsing_error`. Raises `ContentRefused` where the
    model refuses in words of its own.
    """
    as_class = isinstance(schema, type) and issubclass(schema, BaseModel)
    parser: Runnable[Any, Any]
    asked: Runnable[Any, AIMessage]
    if method == "function_calling":
        name = convert_to_openai_tool(schema)["function"]["name"]
        asked = model.bind_tools(
            [schema], tool_choice=name, strict=strict, parallel_tool_calls=False, **kwargs
        )
        parser = (
            PydanticToolsParser(tools=[schema], first_tool_only=True)
            if as_class
            else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        )
    else:
        form: Any = {"type": "json_object"}
        if method == "json_schema":
            form = response_format_of(schema, strict=strict)
        asked = model.bind(response_format=form, **kwargs) | _refused
        parser = PydanticOutputParser(pydantic_object=schema) if as_class else JsonOutputParser()
    if not include_raw:
        return asked | parser
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=asked) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _refused(message: AIMessage) -> AIMessage:
    refusal = message.additional_kwargs.get("refusal")
    if refusal and not message.text:
        raise ContentRefused(f"the model refused: {refusal}")
    return message
