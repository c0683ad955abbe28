"""The table of what follows a call of which no answer is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from millstream.agents.loop.tools.in_doubt import in_doubt_of, what_follows
from millstream.agents.loop.tools.intents import Intent, arguments_text
from millstream.agents.tools import NOT_MADE, ToolRules
from millstream.schemas.runs.errors import InDoubt

NOW_MS = 1_800_000_000_000
EFFECTS = ["read_only", "idempotent", "reconcile", "ask_human"]


def rules(effect: Any) -> ToolRules:
    return ToolRules(effect, reconcile=(lambda *_: NOT_MADE) if effect == "reconcile" else None)


def intent(effect: Any = "idempotent", **fields: Any) -> Intent:
    given = {"key": "k", "arguments": '{"order": "7"}', "at_ms": NOW_MS} | fields
    return Intent("c1", "pay", effect, **given)


@pytest.mark.parametrize("now", [*EFFECTS, None])
def test_a_call_that_was_answered_is_answered_from_there(now: str | None) -> None:
    # The first answer stands, also where the tool would give another for the same key, or is gone.
    declared = None if now is None else rules(now)
    assert what_follows(intent(), declared, is_answered=True) == "take"
    assert what_follows(None, declared, is_answered=True) == "take"


@pytest.mark.parametrize("now", EFFECTS)
def test_a_call_without_an_intent_was_not_made(now: str) -> None:
    assert what_follows(None, rules(now)) == "make"


# Recorded, declared now: what follows.
TABLE = {
    ("read_only", "read_only"): "make",
    ("read_only", "idempotent"): "make_again",
    ("read_only", "reconcile"): "ask",
    ("read_only", "ask_human"): "doubt",
    ("idempotent", "read_only"): "make_again",
    ("idempotent", "idempotent"): "make_again",
    ("idempotent", "reconcile"): "ask",
    ("idempotent", "ask_human"): "doubt",
    ("reconcile", "read_only"): "doubt",  # nobody is left to ask
    ("reconcile", "idempotent"): "doubt",
    ("reconcile", "reconcile"): "ask",
    ("reconcile", "ask_human"): "doubt",
    ("ask_human", "read_only"): "doubt",
    ("ask_human", "idempotent"): "doubt",
    ("ask_human", "reconcile"): "doubt",
    ("ask_human", "ask_human"): "doubt",
}


@pytest.mark.parametrize(("recorded", "now"), list(product(EFFECTS, EFFECTS)))
def test_the_stricter_of_what_was_declared_and_what_is_declared_decides(
    recorded: str, now: str
) -> None:
    # aakshintala/fiber#40: what is called safe now does not make safe what was not.
    found = what_follows(intent(recorded), rules(now))
    assert TABLE[recorded, now] == ("doubt" if isinstance(found, InDoubt) else found)


@pytest.mark.parametrize("recorded", EFFECTS)
def test_a_tool_that_is_gone_leaves_its_call_in_doubt(recorded: str) -> None:
    found = what_follows(intent(recorded), None, may_repeat=True)
    assert isinstance(found, InDoubt)
    assert "its tool is gone" in str(found)


def test_an_effect_of_a_newer_version_is_taken_for_the_strictest() -> None:
    assert isinstance(what_follows(intent("saga"), rules("idempotent")), InDoubt)


@pytest.mark.parametrize(("recorded", "now"), list(product(EFFECTS, EFFECTS)))
def test_a_template_whose_calls_may_be_made_twice_is_never_in_doubt(
    recorded: str, now: str
) -> None:
    found = what_follows(intent(recorded), rules(now), may_repeat=True)
    assert found == ("ask" if now == "reconcile" else "make")


def test_a_doubt_names_the_call_its_time_and_its_arguments_and_says_what_to_do() -> None:
    found = what_follows(intent("ask_human", at_ms=NOW_MS), rules("ask_human"))
    assert str(found) == (
        "it gave no answer; it is not known whether it did what it was called for (pay, c1), "
        'called at 2027-01-15T08:00:00Z with {"order": "7"}; find out before you ask anew; a tool '
        "that changes nothing is declared with effect='read_only'"
    )
    found = what_follows(intent("reconcile"), rules("idempotent"))
    assert "it was declared 'reconcile', and is 'idempotent' now" in str(found)


def test_a_doubt_fits_a_reason_whatever_its_arguments_and_words_are() -> None:
    long = intent("ask_human", arguments=arguments_text({"text": "x" * 100_000}))
    message = str(in_doubt_of(long, "y" * 5_000, rules("ask_human")))
    assert len(message) <= 500
    assert "(pay, c1)" in message
    assert "find out before you ask anew" in message
    assert "called with" in str(in_doubt_of(replace(long, at_ms=None), "y"))
    assert "with" in str(in_doubt_of(replace(long, at_ms=10**18), "y"))


def test_arguments_are_written_whatever_they_are() -> None:
    assert arguments_text({"order": "é", "at": {1}}) == '{"order": "é", "at": "{1}"}'
    assert len(arguments_text({"text": "é" * 10_000}).encode()) <= 8_192
    assert arguments_text({"half": "\ud83d"}).encode()
