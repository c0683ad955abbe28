"""A model that a middleware calls beside the agent's own, through the seam of the run's calls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from langchain.agents.middleware.internal_call_transformer import internal_call_metadata
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.base import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.tools import BaseTool
from typing_extensions import override

from millstream.agents.loop.model_gate import RunContext
from millstream.agents.sessions.media import has_media, labelled

__all__ = ["BesideModel"]


class BesideModel(BaseChatModel):
    """Calls `model` for a middleware, as the run's other calls are made.

    `named` is the name by which its template asks for the model, `None`: the run's own, whichever
    of the template's models that is in an attempt; what one of them answered, counts for all.
    The run's callbacks ask before the call, count it under its own model's name, and know that it
    is not the agent's voice. An answer is kept with the run's calls, by a digest of what was asked:
    an attempt that is tried again and asks the same is answered from there.
    """

    model: BaseChatModel
    named: str | None = None

    @property
    @override
    def _llm_type(self) -> str:
        return self.model._llm_type  # noqa: SLF001  it stands for that model

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = "a middleware's model is called by `ainvoke`"
        raise NotImplementedError(message)

    @override
    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools as `model` does, and still call it from here."""
        bound = self.model.bind_tools(tools, tool_choice=tool_choice, **kwargs)
        return self.bind(**bound.kwargs) if isinstance(bound, RunnableBinding) else bound

    @override
    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Give the answer that was kept, or the model's."""
        context = RunContext.current()
        messages = self.model._convert_input(input).to_messages()  # noqa: SLF001
        if has_media(messages):
            # What it is to say is about the words, and it may be a model that takes no images.
            input = labelled(messages)  # noqa: A001
        asked = self._digest(input, kwargs)
        if context is not None:
            kept = context.calls.answered_beside(asked)
            if isinstance(kept, AIMessage):
                return kept
            await context.calls.door()
        told = ensure_config(config)
        told["metadata"] = {**told.get("metadata", {}), **internal_call_metadata()}
        began_s = monotonic()
        answer = await self.model.ainvoke(input, told, stop=stop, **kwargs)
        if context is None:
            return answer
        took_ms = round((monotonic() - began_s) * 1000)
        kept = context.calls.keep_beside(asked, answer, took_ms=took_ms)
        return kept if isinstance(kept, AIMessage) else answer

    def _digest(self, asked: LanguageModelInput, settings: dict[str, Any]) -> str:
        # Ids are made anew by each attempt: what is asked is what a model reads.
        messages = [
            (one.type, one.content)
            for one in self.model._convert_input(asked).to_messages()  # noqa: SLF001
        ]
        words = json.dumps([messages, dumpd(settings)], sort_keys=True, default=str)
        return hashlib.sha256(f"{self.named} {words}".encode(errors="replace")).hexdigest()[:32]
