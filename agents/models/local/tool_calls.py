"""Tool calls of the local model: how it is told of tools, what holds it, and what it wrote.

The engine's own tools do nothing here: the model's chat template knows none, and what a request
offers, or requires, is passed over in silence. So an answer is held by a grammar: it is either
text, which does not begin with a brace, or the call of one tool with arguments of its schema's
form.

The engine also passes over a grammar that it cannot read (llama.cpp's issue 19051), and lets the
model write what it likes. So a schema goes into the grammar with keywords that are known to be
read, and what comes back is looked at, not believed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk

from millstream.agents.models.local.schema_form import form_of, sample_of
from millstream.schemas.errors import Terminal

__all__ = ["HeldAnswer", "OfferedTools", "call_text", "result_text"]

EXAMPLES_MAX: Final = 4
"""Tools whose calls the model is shown: some 25 tokens each."""

_END_OF_TURN: Final = "<|im_end|>"
"""The token by which the model ends its turn; a grammar has to name it to permit it behind text."""

_TEXT: Final = r"text: /[^{\s](.|\n)*/"
_BEGINS_CALL: Final = re.compile(
    r'\{\s*"name"\s*:\s*(?P<name>"(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?P<args>.*)', re.DOTALL
)


@dataclass(frozen=True, slots=True)
class OfferedTools:
    """The tools of one call of the model: JSON schemas of functions, as OpenAI has them.

    `choice` is LangChain's `tool_choice`: `None` or `auto` for a call or text, `none` for text,
    `any`, `required` or true for a call, and a tool's name for a call of that one. `answer` is the
    schema that an answer without a call follows, `None` for words.
    """

    functions: tuple[Mapping[str, Any], ...]
    choice: Any = None
    answer: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        tools: Sequence[Mapping[str, Any]],
        choice: Any,
        answer: Mapping[str, Any] | None = None,
    ) -> OfferedTools:
        """Make it of what a model was bound to. Raises `Terminal` for an unknown choice."""
        if isinstance(choice, Mapping):
            choice = (choice.get("function") or {}).get("name")
        functions = tuple(tool["function"] for tool in tools)
        known = {function["name"] for function in functions}
        if choice in {None, "auto"} or choice in _CALLS or choice == "none" or choice in known:
            return cls(functions, choice, answer)
        message = f"the local model is to call {choice!r}, and is offered {', '.join(known)}"
        raise Terminal(message)

    def grammar(self) -> str:
        """Give the grammar of an answer, in llguidance's form of Lark's."""
        may_call = [
            function
            for function in self.functions
            if self.choice != "none" and (self.choice in _ANY or self.choice == function["name"])
        ]
        may_answer = self.choice in {None, "auto", "none"}
        text = f"text {_END_OF_TURN}" if self.answer is None else "text"
        ways = [text] * may_answer + ["call"] * bool(may_call)
        lines = ["%llguidance {}", f"start: {' | '.join(ways)}"]
        if may_answer:
            lines.append(
                _TEXT if self.answer is None else f"text: %json {_answer_form(self.answer)}"
            )
        if may_call:
            lines.append(f"call: %json {json.dumps(_schema_of_calls(may_call))}")
        return "\n".join(lines) + "\n"

    def put_before(self, messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
        """Tell of the tools, and show how they are called, before a conversation.

        In turns that the model seems to have written itself: of words alone it takes no notice.
        """
        system, rest = "", list(messages)
        if rest and rest[0]["role"] == "system":
            system = rest.pop(0)["content"] + "\n\n"
        told = [f"- {one['name']}: {one.get('description', '')}" for one in self.functions]
        otherwise = "answer in words" if self.answer is None else "write only the answer as JSON"
        words = f"To use a tool, write only its call as JSON; otherwise {otherwise}."
        shown = [{"role": "system", "content": "\n".join([f"{system}Tools:", *told, words])}]
        for function in self.functions[:EXAMPLES_MAX]:
            sample = sample_of(function.get("parameters") or {})
            name = function["name"]
            shown += _turn(f"Use {name}.", call_text(name, sample))
        return [*shown, *_turn("Thank you.", "You are welcome."), *rest]


_CALLS: Final = ("any", "required", True)
_ANY: Final = (None, "auto", *_CALLS)


def call_text(name: str, args: Mapping[str, Any]) -> str:
    """Give a call as the model writes it."""
    return json.dumps({"name": name, "arguments": args}, separators=(",", ":"), ensure_ascii=False)


def result_text(name: str, result: str) -> str:
    """Give a tool's result as the model is told of it."""
    return f"{name} gave: {result}\nAnswer in words."


class HeldAnswer:
    """Tells text from a call while an answer is being written: what may be a call is kept back.

    A call begins with a brace, as no text does that the grammar held. Bounded by the limit of the
    answer's tokens.
    """

    __slots__ = ("_is_text", "_kept")

    def __init__(self) -> None:
        self._kept = ""
        self._is_text = False

    def take(self, piece: str) -> str:
        """Take in a piece; give the text that may be shown by now."""
        if self._is_text:
            return piece
        self._kept += piece
        begun = self._kept.lstrip()
        if not begun or begun.startswith("{"):
            return ""
        self._is_text = True
        return self._released()

    def end(self, *, cut: bool) -> tuple[str, ToolCallChunk | None]:
        """Give the text that was kept back, and the call that it was instead.

        Arguments are given as they were written: also those that the limit of tokens `cut`.
        """
        written = self._kept.strip()
        found = _BEGINS_CALL.fullmatch(written)
        if found is not None:
            args = found["args"].rstrip()
            if not cut or _is_whole(written):
                args = args.removesuffix("}").rstrip()
            return "", _call(json.loads(found["name"]), args)
        if cut and written:
            return "", _call(None, written)
        return self._released(), None

    def _released(self) -> str:
        text, self._kept = self._kept, ""
        return text


def _schema_of_calls(functions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": form_of(function.get("parameters") or {}),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in functions
    ]
    # Without blanks, of which a small model writes as many as it may.
    return {"x-guidance": {"whitespace_flexible": False}, "anyOf": calls}


def _answer_form(schema: Mapping[str, Any]) -> str:
    return json.dumps({"x-guidance": {"whitespace_flexible": False}, **form_of(schema)})


def _turn(asked: str, said: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]


def _call(name: str | None, args: str) -> ToolCallChunk:
    return tool_call_chunk(name=name, args=args, id=f"call_{uuid4().hex}", index=0)


def _is_whole(written: str) -> bool:
    try:
        json.loads(written)
    except (ValueError, RecursionError):
        return False
    return True
