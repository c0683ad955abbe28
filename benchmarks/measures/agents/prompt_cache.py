"""How much of its prompts a provider would find in its prompt cache, for each strategy of memory.

A conversation of 50 turns of some 250 tokens, run by the executor as it stands: a model that keeps
what it was asked. A provider of the kind of OpenAI's keeps the beginning of a prompt in blocks of
128 tokens, from 1,024 on; here the newest prompt is what it has. A token is taken for four bytes.
Each strategy trims in steps, as by default, and by as little as it can each turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from typing import Any, Final

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from benchmarks.report import Figure
from millstream.agents.executor import AgentExecutor
from millstream.agents.factory import AgentFactory
from millstream.agents.templates.memory import LastTurns, Memory, Summary, TokenBudget
from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.base import Address
from millstream.schemas.events import AgentToken, CheckpointSaved, ResolvedRequest

__all__ = ["run"]

TURNS: Final = 50
_BYTES_PER_TOKEN: Final = 4
_BLOCK_BYTES: Final = 128 * _BYTES_PER_TOKEN
_CACHED_BYTES_MIN: Final = 1024 * _BYTES_PER_TOKEN
_TOKENS_MAX: Final = 6_000
_SYSTEM: Final = "You answer questions of customers. " * 40
_QUESTION: Final = "What about order {number}? " + "It was to come last week. " * 7
_ANSWER: Final = "Order {number} is on its way. " + "It left the house on Monday. " * 27

STRATEGIES: Final[dict[str, tuple[Memory, Memory]]] = {
    "last_turns": (
        LastTurns(turns_max=20, tokens_max=_TOKENS_MAX * 2),
        LastTurns(turns_max=20, turns_keep=20, tokens_max=_TOKENS_MAX * 2),
    ),
    "token_budget": (
        TokenBudget(tokens_max=_TOKENS_MAX),
        TokenBudget(tokens_max=_TOKENS_MAX, keep_share=1.0),
    ),
    "summary": (
        Summary(tokens_max=_TOKENS_MAX, read_tokens_max=_TOKENS_MAX, model="writer"),
        Summary(
            tokens_max=_TOKENS_MAX, keep_share=0.95, read_tokens_max=_TOKENS_MAX, model="writer"
        ),
    ),
}


class _Asked(BaseChatModel):
    """Answers at length, and keeps what it was asked."""

    prompts: list[bytes] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "asked"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        told = "\n".join(f"{message.type}: {message.text}" for message in messages)
        self.prompts.append(told.encode())
        answer = _ANSWER.format(number=len(self.prompts))
        read, wrote = (len(one) // _BYTES_PER_TOKEN for one in (told, answer))
        used = UsageMetadata(input_tokens=read, output_tokens=wrote, total_tokens=read + wrote)
        said = AIMessage(answer, usage_metadata=used)
        return ChatResult(generations=[ChatGeneration(message=said)])

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return self._generate(messages)


def run() -> Iterator[Figure]:
    """Measure in this process. Raises `RuntimeError` if a turn does not complete."""
    for name, (in_steps, by_one) in STRATEGIES.items():
        for way, memory in (("in_steps", in_steps), ("by_one", by_one)):
            prompts, summaries = asyncio.run(_prompts(memory))
            tokens = sum(map(len, prompts)) / _BYTES_PER_TOKEN
            label = f"{name}_{way}"
            yield Figure(f"prompt_cache_hit_{label}", _hit_share(prompts) * 100, "%")
            yield Figure(f"prompt_tokens_{label}", tokens, "tokens")
            if summaries:
                yield Figure(f"prompt_cache_summaries_{way}", summaries, "calls")


async def _prompts(memory: Memory) -> tuple[list[bytes], int]:
    models = {"asked": _Asked(), "writer": _Asked()}
    template = AgentTemplate(
        name="talk", memory=memory, system_prompt=_SYSTEM, output_tokens_max=1_000
    )
    factory = AgentFactory(
        default_model="asked", templates=(template,), resolve=lambda name, **_: models[name]
    )
    executor = AgentExecutor(factory)
    saved: list[CheckpointSaved] = []

    async def load() -> CheckpointSaved | None:
        return saved[-1] if saved else None

    async def emit(_: AgentToken) -> None:
        return None

    for number in range(TURNS):
        request = ResolvedRequest(
            request_id=f"r{number}",
            user_id="ada",
            session_id="s",
            template="talk",
            input=_QUESTION.format(number=number),
            at_ms=number,
            source=Address(topic="requests", partition=0, offset=number),
        )
        outcome = await executor.run(
            request, factory.plan(request), attempt=1, load_checkpoint=load, emit=emit
        )
        if outcome.checkpoint is None:
            message = f"a turn did not complete: {outcome.result.reason}"
            raise RuntimeError(message)
        saved.append(outcome.checkpoint)
    return models["asked"].prompts, len(models["writer"].prompts)


def _hit_share(prompts: Sequence[bytes]) -> float:
    hit_bytes = 0
    for before, prompt in pairwise(prompts):
        alike = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, prompt, strict=False))
        )
        if alike >= _CACHED_BYTES_MIN:
            hit_bytes += alike // _BLOCK_BYTES * _BLOCK_BYTES
    return hit_bytes / sum(map(len, prompts))
