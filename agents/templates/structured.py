"""Answers that follow a JSON schema: how a model is held to it, and the check that it was.

A model that can call tools, or has structured output of its own, is asked by LangChain's own
means. The local one is held by a grammar and answers in text. LangChain does not validate against
a schema that is given as plain JSON, so whatever way an answer came, it is validated here.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import jsonschema
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from referencing import Registry
from typing_extensions import override

from millstream.schemas.errors import Terminal

__all__ = ["HeldByGrammar", "check_schema", "checked_answer"]


class HeldByGrammar(AgentMiddleware[Any, Any, Any]):
    """Gives `response_format` to each call of a model that turns it into a grammar."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        super().__init__()
        name = str(schema.get("title", "answer"))
        self._settings = {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": name, "schema": dict(schema), "strict": True},
            }
        }

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Add the schema to what the model is called with."""
        settings = {**request.model_settings, **self._settings}
        return await handler(request.override(model_settings=settings))


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise `ValueError`, saying why, unless this is the JSON schema of an object."""
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        message = f"not a JSON schema: {error.message}"
        raise ValueError(message) from error
    if schema.get("type") != "object":
        message = "must be the schema of an object"
        raise ValueError(message)


def checked_answer(schema: Mapping[str, Any], answer: object, text: str) -> dict[str, Any]:
    """Give the object that the agent answered with: `answer`, or where that is `None`, in `text`.

    Raises `Terminal`, saying where, if there is none or it does not match the schema.
    """
    if answer is None:
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError) as error:
            message = f"the model did not answer in JSON: {error}"
            raise Terminal(message) from error
    # A registry of its own, since the default one fetches schemas that `$ref` names by address.
    no_addresses: Registry[Any] = Registry()
    validator = jsonschema.Draft202012Validator(schema, registry=no_addresses)
    problem = jsonschema.exceptions.best_match(validator.iter_errors(answer))
    if problem is not None:
        message = f"the model's answer does not match the schema at {problem.json_path}: "
        raise Terminal(message + problem.message)
    if not isinstance(answer, dict):
        message = f"the model's answer is not an object but {type(answer).__name__}"
        raise Terminal(message)
    try:
        # Python reads more than JSON can say: NaN, halves of surrogate pairs.
        json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        message = f"the model's answer cannot be written as JSON: {error}"
        raise Terminal(message) from error
    return answer
