"""The memory strategy `summary`: older turns give way to a summary, before a run's first call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import structlog
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.summarization import DEFAULT_SUMMARY_PROMPT
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    HumanMessage,
    RemoveMessage,
    get_buffer_string,
)
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from typing_extensions import override

from millstream.agents.loop.containment import stops_run
from millstream.agents.sessions.media import labelled
from millstream.agents.sessions.memory import BYTES_PER_TOKEN, bounds_of
from millstream.agents.sessions.text import cut_to_bytes, well_formed
from millstream.agents.templates.memory import Summary
from millstream.schemas.errors import LaneLost, Suspended

__all__ = ["SUMMARY_PROMPT_TOKENS_MAX", "SummaryMemory"]

SUMMARY_PROMPT_TOKENS_MAX: Final = len(DEFAULT_SUMMARY_PROMPT.encode())

_ASKED: Final = "Summarise our conversation so far."
_MARK: Final = {"lc_source": "summarization"}

_log = structlog.get_logger(__name__)


class SummaryMemory(AgentMiddleware[Any, Any, Any]):
    """Puts a summary in the place of a session's older turns once all take more than `memory` says.

    The summary stands as a turn of its own, a question for it and the answer: so a person's and a
    model's messages take turns, as some providers ask for, and no turn is parted.
    """

    def __init__(self, memory: Summary, model: BaseChatModel) -> None:
        super().__init__()
        self._memory = memory
        self._bounds = bounds_of(memory)
        self._model = model

    @override
    async def abefore_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """Give the conversation with a summary at its beginning, `None` where it is short enough.

        Where no summary comes, the older turns are left out without one.
        """
        *earlier, question = state["messages"]
        kept_from = self._bounds.kept_from(earlier)
        if kept_from == 0:
            return None
        summary = await self._summary(earlier[:kept_from])
        stands: list[AnyMessage] = []
        if summary:
            stands = [HumanMessage(_ASKED, additional_kwargs=dict(_MARK)), AIMessage(summary)]
        emptied = RemoveMessage(id=REMOVE_ALL_MESSAGES)
        return {"messages": [emptied, *stands, *earlier[kept_from:], question]}

    async def _summary(self, messages: Sequence[AnyMessage]) -> str:
        prompt = DEFAULT_SUMMARY_PROMPT.format(messages=self._told(messages))
        try:
            said = await self._model.ainvoke([HumanMessage(prompt)])
        except (LaneLost, Suspended, MemoryError):
            raise
        except Exception as error:
            if stops_run(error):
                raise
            _log.warning("a session's older turns are left out without a summary", exc_info=error)
            return ""
        text = well_formed(said.text.strip())
        if not text:
            _log.warning("a session's older turns are left out: the summary is empty")
        return cut_to_bytes(text, self._memory.summary_tokens * BYTES_PER_TOKEN)

    def _told(self, messages: Sequence[AnyMessage]) -> str:
        """Give what a summary is made of: the last summary, and the newest of the rest."""
        bytes_max = self._memory.read_tokens * BYTES_PER_TOKEN
        messages, words = labelled(messages), ""
        if messages[0].additional_kwargs.get("lc_source") == _MARK["lc_source"]:
            words = cut_to_bytes(get_buffer_string(messages[:2]), bytes_max // 2) + "\n"
            messages = messages[2:]
        rest = get_buffer_string(messages).encode(errors="replace")
        cut = rest[max(0, len(rest) - (bytes_max - len(words.encode()))) :]
        return words + cut.decode(errors="ignore")
