"""Whether the end of a model's answer lets its run go on."""

from __future__ import annotations

from typing import Final, Literal

from langchain_core.messages import AIMessage, BaseMessage

from millstream.agents.models.ends import finish_reason_of
from millstream.agents.models.thoughts import thought_of
from millstream.schemas.errors import ModelFailed
from millstream.schemas.events import FinishReason
from millstream.schemas.runs.errors import AnswerCut, ContentRefused

__all__ = ["REASONING_BYTES_MAX", "Ending"]

REASONING_BYTES_MAX: Final = 65_536
"""Longest reasoning of a result, which shares its Kafka record with the text."""

_UNKNOWN_LIMIT: Final = 0
_CUT_BY: Final = "the model's answer was cut: it ended by {!r}"


class Ending:
    """What is known of how the answers of one attempt ended, and of the thoughts before them.

    `output_tokens_max` is the limit of one model call, 0 where nobody knows it. `cut` says what
    becomes of an answer that was cut; `structured`, that it has to follow a schema, which what was
    cut does not, even if it happens to. `calls_tools`: a call that was announced and not made is
    told to the model where tools are called, and is no empty answer here.
    """

    __slots__ = (
        "_thoughts",
        "_thoughts_bytes",
        "calls_tools",
        "cut",
        "finish_reason",
        "output_tokens_max",
        "structured",
    )

    def __init__(
        self,
        *,
        output_tokens_max: int = _UNKNOWN_LIMIT,
        cut: Literal["complete", "fail"] = "complete",
        structured: bool = False,
        calls_tools: bool = False,
    ) -> None:
        self.output_tokens_max = output_tokens_max
        self.cut = cut
        self.structured = structured
        self.calls_tools = calls_tools
        self.finish_reason: FinishReason | None = None
        self._thoughts: list[str] = []
        self._thoughts_bytes = 0

    @property
    def reasoning(self) -> str | None:
        """The thoughts that the model let be seen, up to 65,536 bytes; `None` if there are none."""
        if not self._thoughts:
            return None
        whole = "".join(self._thoughts).encode(errors="replace")
        return whole[:REASONING_BYTES_MAX].decode(errors="ignore")

    def think(self, message: BaseMessage) -> None:
        """Take in the reasoning in a piece of an answer."""
        thought = thought_of(message)
        if thought and self._thoughts_bytes < REASONING_BYTES_MAX:
            self._thoughts.append(thought)
            self._thoughts_bytes += len(thought)

    def see(self, message: AIMessage) -> None:
        """Take in an answer of the agent's own model that has ended.

        Raises `ModelFailed`, to be tried again, for one that broke off, ended by an error or has
        neither text nor calls; `ContentRefused` for one that was filtered as a whole; `AnswerCut`
        for one that was cut and counts only whole.
        """
        if not self._thoughts:
            self.think(message)
        reason = finish_reason_of(message)
        self.finish_reason = reason or "unknown"
        if reason is None:
            why = "the model's answer ended without a sign of its end"
            raise ModelFailed(why, may_cost=True)
        if reason == "error":
            why = "the model's provider ended the answer by an error"
            raise ModelFailed(why, may_cost=True)
        calls = bool(message.tool_calls or message.invalid_tool_calls)
        content = message.content
        text = content if isinstance(content, str) else message.text
        empty = not calls and not text.strip()
        if reason == "content_filter" and empty:
            why = "the model's provider filtered the answer as a whole"
            raise ContentRefused(why)
        if empty and reason == "length" and self.structured:
            # Of what a schema holds there was no room for the first word.
            raise AnswerCut(_CUT_BY.format(reason))
        if empty and not (reason == "tool_calls" and self.calls_tools):
            thought = "" if self.reasoning is None else ", only of reasoning"
            raise ModelFailed(
                f"the model's answer is without text and without calls{thought} "
                f"(it ended by {self.finish_reason!r})"
            )
        was_cut = reason in {"length", "content_filter"}
        # What tools are called with is judged where they are called.
        if was_cut and (self.structured or (self.cut == "fail" and not calls)):
            raise AnswerCut(_CUT_BY.format(reason))
