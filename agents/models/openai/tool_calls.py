"""The pieces of a stream's tool calls, each put to its call.

OpenAI numbers the calls of an answer, and gives the id and name of each with its first piece. Other
servers leave the number out (Ollama's issue 7881, Gemini by openai-python's issue 2806), give two
calls the same (agno's pull request 8880), or say id and name with each piece (lmdeploy's issue
3412).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk

__all__ = ["CallPieces", "as_json_text"]


@dataclass(slots=True)
class _Call:
    index: int
    id: str | None = None
    name: str | None = None


class CallPieces:
    """Numbers the pieces of one answer's calls, so that those of one call have one number."""

    __slots__ = ("_by_id", "_by_told_index", "_calls")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_id: dict[str, _Call] = {}
        self._by_told_index: dict[int, _Call] = {}

    def take(self, pieces: Sequence[Mapping[str, Any]]) -> list[ToolCallChunk]:
        """Give the pieces of an event; one that holds nothing of a call is left out."""
        return [chunk for piece in pieces if (chunk := self._chunk(piece)) is not None]

    def _chunk(self, piece: Mapping[str, Any]) -> ToolCallChunk | None:
        function = piece.get("function") or {}
        name, arguments = function.get("name"), as_json_text(function.get("arguments"))
        own_id = piece.get("id") or None
        if not function and own_id is None:
            return None
        call = self._call_of(own_id, piece.get("index"), name)
        if name and name == call.name:
            name = None  # LangChain would write it behind the first
        call.id, call.name = call.id or own_id, call.name or name
        return tool_call_chunk(name=name, args=arguments, id=own_id, index=call.index)

    def _call_of(self, own_id: str | None, told: int | None, name: str | None) -> _Call:
        numbered = None if told is None else self._by_told_index.get(told)
        if own_id is not None:
            # Two calls may have one id, and are told apart by their numbers.
            call = self._by_id.get(own_id) if told is None else numbered
            if call is None or call.id not in {None, own_id}:
                call = self._new(told)
            self._by_id[own_id] = call
        elif numbered is not None:
            call = numbered
        elif name or not self._calls:
            call = self._new(told)
        else:
            call = self._calls[-1]
        if told is not None:
            self._by_told_index[told] = call
        return call

    def _new(self, told: int | None) -> _Call:
        used = {call.index for call in self._calls}
        index = max(used, default=-1) + 1 if told is None or told in used else told
        self._calls.append(_Call(index))
        return self._calls[-1]


def as_json_text(arguments: Any) -> Any:
    """Give arguments as the text that they are to be, also where a server sends the object."""
    return json.dumps(arguments) if isinstance(arguments, Mapping) else arguments
