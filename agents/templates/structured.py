"""Answers that follow a JSON schema: how a model is held to it, and the check that it was.

A model that can call tools, or has structured output of its own, is asked by LangChain's own
means. The local one is held by a grammar and answers in text. LangChain does not validate against
a schema that is given as plain JSON, so whatever way an answer came, it is validated here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import jsonschema
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from referencing import Registry
from typing_extensions import override

from millstream.schemas.errors import Terminal
from millstream.schemas.lane_events import AnswerRepair

__all__ = [
    "REPAIR_TOKENS_MAX",
    "AnswerInvalid",
    "HeldByGrammar",
    "checked_answer",
    "in_form",
    "told_again",
]

REPAIR_MARK: Final = "millstream_repair"
"""Marks the message that tells of an answer to give anew; no provider is sent it."""

_ANSWER_BYTES_MAX: Final = 4_096
_PROBLEM_CHARS_MAX: Final = 500

REPAIR_TOKENS_MAX: Final = _ANSWER_BYTES_MAX + 4 * _PROBLEM_CHARS_MAX + 512
"""The most that a model call reads more where it is told of an answer to give anew."""

_ANSWER_AGAIN: Final = (
    "Your answer was not accepted: {}. Give the whole answer again, with a JSON object that fits "
    "the schema and nothing around it."
)

# The whole text: what stands before or behind a fence is no part of an answer.
_FENCE: Final = re.compile(r"\s*```(?:json|JSON)?[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)


class AnswerInvalid(Terminal):
    """The model's answer does not fit its schema, and it was told so as often as it may be.

    `repair` is the answer and the problem, in the bounds of what the model is told of them.
    """

    code = "answer_invalid"

    def __init__(self, problem: str, answer: str = "") -> None:
        super().__init__(problem)
        self.repair = AnswerRepair(
            answer=answer.encode(errors="replace")[:_ANSWER_BYTES_MAX].decode(errors="ignore"),
            problem=problem[:_PROBLEM_CHARS_MAX].encode(errors="replace").decode(),
        )


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


def checked_answer(schema: Mapping[str, Any], answer: object) -> dict[str, Any]:
    """Give the object that the agent answered with: `answer`, or the JSON in it if it is a text.

    A text may be JSON and nothing else, also in one fence of Markdown, as models write it. Raises
    `AnswerInvalid`, saying where, if there is none or it does not match the schema.
    """
    shown = answer if isinstance(answer, str) else _shown(answer)
    if isinstance(answer, str):
        answer = _parsed(answer)
    # A registry of its own, since the default one fetches schemas that `$ref` names by address.
    no_addresses: Registry[Any] = Registry()
    validator = jsonschema.Draft202012Validator(schema, registry=no_addresses)
    try:
        problem = jsonschema.exceptions.best_match(validator.iter_errors(answer))
    except RecursionError as error:
        message = "the model's answer is nested too deeply"
        raise AnswerInvalid(message, shown) from error
    if problem is not None:
        message = f"the model's answer does not match the schema at {problem.json_path}: "
        raise AnswerInvalid(message + problem.message, shown)
    if not isinstance(answer, dict):
        message = f"the model's answer is not an object but {type(answer).__name__}"
        raise AnswerInvalid(message, shown)
    try:
        # Python reads more than JSON can say: NaN, halves of surrogate pairs.
        json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        message = f"the model's answer cannot be written as JSON: {error}"
        raise AnswerInvalid(message, shown) from error
    return answer


def in_form(schema: Mapping[str, Any], response: ModelResponse[Any]) -> ModelResponse[Any]:
    """Give a model's response, with the answer in it if it ends the run.

    An answer in words counts where LangChain expects a call, too. Raises `AnswerInvalid`.
    """
    said = response.result[0] if response.result else None
    if not isinstance(said, AIMessage):
        return response
    if response.structured_response is not None:
        checked_answer(schema, response.structured_response)
        return response
    if said.tool_calls:
        if len(response.result) == 1:
            return response  # calls of tools, or of what is none: the loop goes on with them
        # LangChain's refusal, as of two answers at once. It would ask again in this attempt.
        why = "; ".join(str(one.content) for one in response.result[1:2])
        answers = json.dumps([call["args"] for call in said.tool_calls], default=str)
        raise AnswerInvalid(f"the model gave no one answer: {why}", answers)
    if said.invalid_tool_calls:
        return response  # what is wrong with them is told where calls are checked
    answer = checked_answer(schema, str(said.text))
    return ModelResponse(response.result, answer)


def told_again(repair: AnswerRepair) -> list[AnyMessage]:
    """Give what a model is told of an answer that it is to give anew."""
    told: list[AnyMessage] = [AIMessage(repair.answer)] if repair.answer.strip() else []
    again = _ANSWER_AGAIN.format(repair.problem)
    return [*told, HumanMessage(again, additional_kwargs={REPAIR_MARK: True})]


def _parsed(text: str) -> object:
    fenced = _FENCE.fullmatch(text)
    try:
        return json.loads(fenced[1] if fenced else text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        message = f"the model did not answer in JSON: {error}"
        raise AnswerInvalid(message, text) from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        message = f"the key {double[:100]!r} stands twice in one object"
        raise ValueError(message)
    return found


def _shown(answer: object) -> str:
    try:
        return json.dumps(answer, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        return ""
