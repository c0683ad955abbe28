"""What people are told of sessions: nothing that a text holds looks like ours, or is obeyed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from millstream.agents.sessions.conversation import CalledTool, ConversationMessage
from millstream.agents.sessions.manager import SessionFilter, SessionInfo
from millstream.gateway.commands.sessions.telling import (
    due_text,
    facts,
    none_text,
    print_conversation,
    print_pairs,
    print_sessions,
    session_pairs,
    ttl_text,
)
from millstream.schemas.sessions.commands import SessionTtl
from millstream.streams.sessions.outcomes import SessionOutcome

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
    assert "lives     1m without being used" in lines


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        ({}, "ended     -"),
        ({"last_status": "failed"}, "ended     failed"),
        (
            {"last_status": "rejected", "last_ended_request_id": "r3"},
            "ended     r3, rejected",
        ),
    ],
)
def test_a_turn_and_an_ending_are_each_told_of_with_its_request(
    ended: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_pairs(session_pairs(replace(SESSION, **ended)))
    lines = capsys.readouterr().out.splitlines()
    assert "request   r2, of turn 2" in lines
    assert told in lines


@pytest.mark.parametrize(
    ("wanted", "templates", "told"),
    [
        (SessionFilter(template="chat"), [], "user ada has no sessions"),
        (SessionFilter(), [], "user ada has no sessions"),
        (
            SessionFilter(template="chatt"),
            ["chat", None, "shop", "chat"],
            "of user ada no session is of the template 'chatt'; the newest are of chat, shop",
        ),
        (
            SessionFilter(template="chat"),
            [None],
            (
                "of user ada no session is of the template 'chat', nor of another: "
                "a session has one from its first run on"
            ),
        ),
        (
            SessionFilter(template="chat", state="closed"),
            ["chat"],
            "user ada has sessions, and no such ones: each option leaves some out",
        ),
    ],
)
def test_a_list_of_nothing_says_what_there_is_instead(
    wanted: SessionFilter, templates: list[str | None], told: str
) -> None:
    others = [replace(SESSION, template=one) for one in templates]
    assert none_text("ada", wanted, others) == told


def test_in_json_what_is_not_there_is_left_out() -> None:
    told = facts(SESSION)
    assert told["session_id"] == "s\x1b[31m"
    assert (told["turn"], told["metadata"]) == (2, {"note": "a\nb"})
    assert "expires_at_ms" not in told


@pytest.mark.parametrize(
    ("ttl", "told"),
    [
        (SessionTtl(idle_s=28_800), "8h without being used"),
        (SessionTtl(idle_s=8), "8s without being used"),
        (SessionTtl(idle_s=3_690, total_s=129_600), "1h 1m 30s without being used, 1d 12h in all"),
        (SessionTtl(), "without a limit"),
    ],
)
def test_a_time_to_live_is_told_in_the_units_that_it_is_given_in(
    ttl: SessionTtl, told: str
) -> None:
    assert ttl_text(ttl) == told


def test_a_command_tells_until_when_a_session_lives() -> None:
    outcome = SessionOutcome(
        tenant="default",
        user_id="ada",
        session_id="s",
        state="open",
        turn=0,
        revision=1,
        ttl=SessionTtl(idle_s=8),
        metadata={},
        names=(),
        command_id="c",
        expires_at_ms=1_769_851_808_007,
    )
    told = ": it expires 2026-01-31 09:30:08.007 UTC"
    assert due_text(outcome) == f"{told} if it is not used before"
    assert due_text(replace(outcome, ttl=SessionTtl(total_s=8))) == told
    assert due_text(replace(outcome, expires_at_ms=None)) == ""
