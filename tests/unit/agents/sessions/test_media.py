"""A question with images and files, and what later turns are shown of them."""

from __future__ import annotations

import base64
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage

from millstream.agents.sessions.media import shown_again
from millstream.agents.sessions.question import question_of
from millstream.agents.templates.memory import TokenBudget
from tests import making

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(12_000)).decode()
IMAGE: dict[str, Any] = {"type": "image", "base64": PNG, "mime_type": "image/png"}
LABEL = {"type": "text", "text": "[image/png, 12 kB]"}


def test_a_question_has_its_input_first_and_then_its_content() -> None:
    notes = {
        "type": "file",
        "base64": base64.b64encode("süß".encode()).decode(),
        "mime_type": "text/plain",
        "extras": {"filename": "notes.txt"},
    }
    pdf = {"type": "file", "base64": "JVBERi0x", "mime_type": "application/pdf"}
    asked = making.resolved("What is it?", content=[IMAGE, notes, pdf])
    assert question_of(asked).content == [
        {"type": "text", "text": "What is it?"},
        IMAGE,
        {"type": "text", "text": "notes.txt:\nsüß"},
        {**pdf, "extras": {"filename": "file"}},
    ]
    # anthropics/claude-code#59862: an image alone came with an empty text.
    assert question_of(making.resolved(" ", content=[IMAGE])).content == [IMAGE]
    assert question_of(making.resolved("hi")).content == "hi"


def turn(*blocks: Any) -> list[Any]:
    return [HumanMessage(list(blocks)), AIMessage("seen")]


def test_earlier_images_are_shown_again_as_far_as_there_is_room_the_newest_first() -> None:
    text = {"type": "text", "text": "And this?"}
    messages = [*turn(text, IMAGE), *turn(IMAGE), HumanMessage("plain")]
    one_fits = TokenBudget(tokens_max=2_000)
    shown = shown_again(messages, frozenset({"image"}), one_fits)
    assert [one.content for one in shown] == [[text, LABEL], "seen", [IMAGE], "seen", "plain"]
    assert messages[0].content == [text, IMAGE]
    all_fit = TokenBudget(tokens_max=5_000)
    assert shown_again(messages, frozenset({"image"}), all_fit) == messages


def test_a_model_that_takes_no_images_is_told_of_earlier_ones() -> None:
    odd = {"type": "video", "url": "https://a.org/v"}
    messages = turn(IMAGE, {"type": "image", "url": "https://a.org/i.png?key=s"}, odd)
    (question, _) = shown_again(messages, frozenset(), TokenBudget(tokens_max=50_000))
    assert question.content == [
        LABEL,
        {"type": "text", "text": "[image at a.org/i.png]"},
        {"type": "text", "text": "[video]"},
    ]
