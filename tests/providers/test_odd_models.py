"""Models of integrations that are odd in themselves, through a real lane: their session goes on."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage

from tests.fakes.odd_models import OddModel
from tests.harness.quick_time import run_quickly
from tests.providers.case import Ended, case_of, in_memory

pytestmark = pytest.mark.promise("P1")

CASE = case_of({"name": "no provider serves it", "requests": [], "server": {}, "right": []})


class Mute(Exception):
    """An error that cannot be written (getsentry/sentry-python#1118)."""

    def __str__(self) -> str:
        """Raise."""
        message = "cannot say"
        raise ValueError(message)


class OwnAnswer(AIMessage):
    """An answer of an integration's own class (langchain-ai/langgraph#7066)."""


IMAGE = {"type": "image", "base64": "A" * 3_000_000, "mime_type": "image/png"}
SAYS: dict[str, tuple[Any, str]] = {
    "an error that cannot be written": (Mute(), "failed"),
    "a generator's end": (GeneratorExit(), "failed"),
    "an answer of its own class": (OwnAnswer("here"), "completed"),
    "an image of 3 MB": (AIMessage([{"type": "text", "text": "here"}, IMAGE]), "completed"),
    "bytes among its metadata": (AIMessage("here", response_metadata={"x": b"\xff"}), "completed"),
}


@pytest.mark.parametrize("template", ["chat_agent", "react_agent"])
@pytest.mark.parametrize(("said", "status"), SAYS.values(), ids=SAYS)
def test_whatever_a_model_gives_its_sessions_next_run_completes(
    said: Any, status: str, template: str
) -> None:
    async def play() -> tuple[Ended, Ended]:
        model = OddModel(says=[said, AIMessage("fine")])
        fields = {"template": template, "model": "odd:one", "user_id": "ada", "session_id": "s"}
        async with in_memory(CASE, models={"odd:one": model}) as bench:
            first = await bench.run("x", request_id="r0", **fields)
            return first, await bench.run("y", request_id="r1", **fields)

    first, second = run_quickly(play())
    assert first.result.status == status
    assert len(first.checkpoints) == (status == "completed")
    assert (second.result.status, second.result.output) == ("completed", "fine")
