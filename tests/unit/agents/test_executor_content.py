"""Runs that are asked with images: who is shown them, what it costs, and who is not called."""

from __future__ import annotations

import base64
from typing import Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult

from millstream.agents.factory import AgentFactory
from millstream.agents.models.media.tokens import IMAGE_TOKENS_MAX
from millstream.agents.models.resolve import resolve_model
from millstream.agents.templates.memory import TokenBudget
from millstream.agents.templates.template import BUILT_IN_TEMPLATES, AgentTemplate
from tests.harness.agent_runs import Runs, resolved

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(30_000)).decode()
IMAGE: dict[str, Any] = {"type": "image", "base64": PNG, "mime_type": "image/png"}


class Seeing(GenericFakeChatModel):
    """A model that keeps what it was sent."""

    sent: list[list[BaseMessage]]

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.sent.append(list(messages))
        return super()._generate(messages, *args, **kwargs)


def with_models(**models: Any) -> Runs:
    def resolve(name: str, **params: Any) -> Any:
        return models.get(name) or resolve_model(name, **params)

    wide = AgentTemplate(name="wide", memory=TokenBudget(tokens_max=4_000))
    return Runs(
        AgentFactory(default_model="seeing", templates=(*BUILT_IN_TEMPLATES, wide), resolve=resolve)
    )


def seeing(profile: Any) -> Seeing:
    answers = iter([AIMessage("a cat"), AIMessage("black"), AIMessage("you asked of a cat")])
    return Seeing(messages=answers, profile=profile, sent=[])


async def test_a_model_that_takes_images_is_shown_them_and_later_turns_as_memory_has_room() -> None:
    model, blind = seeing({"image_inputs": True}), seeing({})
    runs = with_models(seeing=model, blind=blind)
    first = await runs.run("What is it?", content=[IMAGE], template="wide")
    assert (first.result.status, first.result.output) == ("completed", "a cat")
    (sent,) = model.sent
    assert sent[-1].content == [{"type": "text", "text": "What is it?"}, IMAGE]
    await runs.run("Its colour?", template="wide")
    assert model.sent[1][0].content == sent[-1].content
    # A model that takes none is told that there was one.
    last = await runs.run("What did I ask?", template="wide", model="blind")
    assert last.result.status == "completed", last.result.reason
    assert blind.sent[0][0].content == [
        {"type": "text", "text": "What is it?"},
        {"type": "text", "text": "[image/png, 30 kB]"},
    ]


async def test_a_small_memory_keeps_a_turn_and_tells_of_its_image() -> None:
    model = seeing({"image_inputs": True})
    runs = with_models(seeing=model)
    await runs.run("What is it?", content=[IMAGE])
    await runs.run("Its colour?")
    (question, *_) = (one for one in model.sent[1] if one.type == "human")
    assert question.content == [
        {"type": "text", "text": "What is it?"},
        {"type": "text", "text": "[image/png, 30 kB]"},
    ]


async def test_content_that_the_model_does_not_take_ends_the_run_before_a_call() -> None:
    blind = seeing({})
    outcome = await with_models(seeing=blind).run("What is it?", content=[IMAGE])
    assert outcome.result.reason is not None
    assert (outcome.result.status, outcome.result.reason.code) == (
        *("failed", "content_unsupported"),
    )
    assert "the model 'seeing' takes no images" in outcome.result.reason.message
    assert outcome.model_failed
    assert not outcome.retryable
    assert blind.sent == []
    assert outcome.calls == ()


async def test_an_image_is_reserved_for_and_estimated_by_its_ceiling() -> None:
    runs = with_models(seeing=seeing({"image_inputs": True}))
    bare = runs.factory.plan(resolved("What is it?")).input_tokens_max
    plan = runs.factory.plan(resolved("What is it?", content=[IMAGE]))
    assert plan.input_tokens_max == bare + IMAGE_TOKENS_MAX
    outcome = await runs.run("What is it?", content=[IMAGE])
    # The model reported nothing.
    (call,) = outcome.calls
    assert IMAGE_TOKENS_MAX < call.usage.input_tokens < len(PNG)
