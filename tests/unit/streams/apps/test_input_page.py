"""What the how-to page of content shows is so."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import yaml

from millstream.agents.templates.memory import TokenBudget
from millstream.agents.templates.template import AgentTemplate
from millstream.schemas.content import INPUT_KINDS
from millstream.schemas.endpoints import ModelEndpoint
from millstream.schemas.events import AgentRequest

PAGE = (Path(__file__).parents[4] / "docs" / "how-to" / "input.md").read_text("utf-8")


def shown(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def test_the_request_that_the_page_shows_is_one() -> None:
    (text,) = shown("json")
    request = AgentRequest.model_validate_json(text)
    assert request.content is not None
    assert [one.label for one in request.content] == [
        "[image/png, 8 B]",
        "[image at example.org/cat.png]",
        "[application/pdf, 9 B]",
        "The second one is newer.",
    ]


async def test_the_test_that_the_page_shows_passes() -> None:
    (text,) = shown("python")
    await asyncio.to_thread(exec, text, {})


def test_the_settings_that_the_page_shows_are_read() -> None:
    (given,) = re.findall(r"MILLSTREAM_MODEL_ENDPOINTS='(.*?)'", PAGE)
    assert ModelEndpoint.model_validate(json.loads(given)["vllm"]).inputs == {"image"}
    assert ModelEndpoint.model_validate(json.loads(given)["vllm"]).inputs <= INPUT_KINDS
    (memory,) = shown("yaml")
    template = AgentTemplate.model_validate({"name": "t", **yaml.safe_load(memory)})
    assert template.memory == TokenBudget(tokens_max=4000)
