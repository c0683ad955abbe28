"""The page of testing has every cue of a script, and each as it stands there is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from millstream.agents.models.scripted.script import TOKENS_MAX, parse_script
from millstream.agents.models.scripted.script import __doc__ as described
from millstream.schemas.errors import Terminal

PAGE = (Path(__file__).parents[5] / "docs" / "how-to" / "testing.md").read_text("utf-8")
SHOWN = re.findall(r"^\| `([a-z].*?)` \|", PAGE, re.MULTILINE)


def test_the_page_has_every_cue() -> None:
    assert described is not None
    known = set(re.findall(r"^    ([a-z]+)(?::| )", described, re.MULTILINE))
    assert {re.split(r"\W", one)[0] for one in SHOWN} == known
    assert {"say", "slow", "endless"} < known


@pytest.mark.parametrize("script", SHOWN)
def test_each_that_it_shows_is_a_script(script: str) -> None:
    assert parse_script(script) != parse_script("echoed")


def test_what_it_says_of_limits_holds() -> None:
    assert f"{TOKENS_MAX:,} `tokens`" in PAGE
    parse_script("slow: 3600; say: x")
    with pytest.raises(Terminal):
        parse_script("slow: 3601; say: x")
