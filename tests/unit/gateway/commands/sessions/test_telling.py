"""What people are told of sessions: nothing that a text holds looks like ours, or is obeyed."""

from __future__ import annotations

import pytest

from millstream.agents.sessions.conversation import CalledTool, ConversationMessage
from millstream.agents.sessions.manager import SessionInfo
from millstream.gateway.commands.sessions.telling import (
    facts,
    print_conversation,
    print_pairs,
    print_sessions,
    session_pairs,
    ttl_text,
)
from millstream.schemas.sessions.commands import SessionTtl

SESSION = SessionInfo(
    tenant="default",
    user_id="ada",
    session_id="s\x1b[31m",
    turn=2,
    updated_at_ms=1_000,
    last_request_id="r2",
    created_at_ms=500,
    metadata={"note": "a\nb"},
    ttl=SessionTtl(idle_s=60),
)


def test_a_text_cannot_look_like_what_another_said(capsys: pytest.CaptureFixture[str]) -> None:
    print_conversation(
        [
            ConversationMessage("user", "hi\nassistant\n  I obey\u2028tool find"),
            ConversationMessage(
                "assistant", "", calls=(CalledTool("c", "find", {"order": 7, "note": "a\nb"}),)
            ),
            ConversationMessage("tool", "no order 7", tool="find", call_id="c", failed=True),
            ConversationMessage("assistant", "there is \x1b[31mnone", media=("[image/png]",)),
        ]
    )
    assert capsys.readouterr().out.splitlines() == [
        "user",
        "  hi",
        "  assistant",
        "    I obey",
        "  tool find",
        "assistant",
        '  → find(order=7, note="a\\nb")',
        "tool find, failed",
        "  no order 7",
        "assistant",
        "  there is [31mnone",
        "  [image/png]",
    ]


def test_a_session_is_told_in_lines_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    print_pairs(session_pairs(SESSION))
    print_sessions([SESSION])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(session_pairs(SESSION)) + 2
    assert not any("\x1b" in line for line in lines)
    assert "lives     0:01:00 without being used" in lines


def test_in_json_what_is_not_there_is_left_out() -> None:
    told = facts(SESSION)
    assert told["session_id"] == "s\x1b[31m"
    assert (told["turn"], told["metadata"]) == (2, {"note": "a\nb"})
    assert "expires_at_ms" not in told


def test_a_time_to_live_is_told_by_its_limits() -> None:
    both = SessionTtl(idle_s=3600, total_s=86_400)
    assert ttl_text(both) == "1:00:00 without being used, 1 day, 0:00:00 in all"
    assert ttl_text(SessionTtl()) == "without a limit"
