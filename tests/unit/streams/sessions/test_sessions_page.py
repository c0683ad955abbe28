"""What the page of sessions shows runs, in memory; and on Kafka in test_session_manager.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from millstream import InMemoryApp

PAGE = Path(__file__).parents[4] / "docs" / "how-to" / "sessions.md"
SNIPPETS = dict(
    re.findall(r"<!-- snippet: (\w+) -->\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
)


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """What the page's snippets define, one after the other."""
    known: dict[str, Any] = {}
    for text in SNIPPETS.values():
        exec(text, known)  # noqa: S102  our page
    return known


async def test_the_page_goes_from_create_to_delete(shown: dict[str, Any]) -> None:
    assert set(SNIPPETS) == {"connect", "life", "refused", "read", "back", "test"}
    async with InMemoryApp(None, script="say: hello") as memory:
        sessions = memory.sessions
        name = await shown["a_call"](sessions)
        for text in ("one", "two"):
            assert (await memory.run("chat_agent", text, session_id=name)).status == "completed"
        assert await shown["gold_sessions"](sessions) == [name]
        assert await shown["transcript"](sessions, name) == (
            "user: one\nassistant: hello\nuser: two\nassistant: hello"
        )
        assert await shown["try_again_from"](sessions, name, 1) == 3
        assert await shown["transcript"](sessions, name) == "user: one\nassistant: hello"
        assert await shown["is_refused"](sessions, name) == ""
        await shown["hang_up"](sessions, name)
        assert await shown["is_refused"](sessions, name) == "session_closed"
        await shown["forget"](sessions, name)
        assert await shown["is_refused"](sessions, name) == "session_deleted"
        order = await shown["create_once"](sessions, "7")
        assert await shown["create_once"](sessions, "7") == order


async def test_the_test_that_the_page_shows_passes(shown: dict[str, Any]) -> None:
    await shown["test_a_closed_session_takes_no_questions"]()
