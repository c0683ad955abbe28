"""What languages need reaches a terminal, and what it would obey does not."""

from __future__ import annotations

import json

import pytest

from millstream.gateway.console.cleaning import escaped, harmless, in_line, json_text, plain_name

NEEDED = {
    "a no-break space": "10\u00a0000\u00a0€",
    "a narrow no-break space": "10\u202f000 €",
    "an ideographic space": "全角\u3000スペース",
    "a joiner of an emoji": "👩\u200d👩\u200d👧",
    "a non-joiner of Persian": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "a mark of direction": "\u200f\u05e9\u05dc\u05d5\u05dd\u200e!",
    "a soft hyphen": "Donau\u00addampf",
    "a zero-width space of Thai": "สวัสดี\u200bครับ",
    "the tags of Scotland's flag": "🏴\U000e0067\U000e0062\U000e007f",
    "a letter of a newer Unicode": "\U0001fae9\U000323af",
}

OBEYED = {
    "an escape": "\x1b[2J",
    "an escape of one byte": "\x9b2J",
    "a carriage return": "safe\rsafr",
    "a backspace": "a\x08b",
    "an order of letters": "\u202egpj.exe",
    "an isolate": "\u2066x\u2069",
    "a byte order mark": "\ufeffx",
}


@pytest.mark.parametrize("text", NEEDED.values(), ids=NEEDED.keys())
def test_what_a_language_needs_is_kept(text: str) -> None:
    assert harmless(text) == in_line(text) == escaped(text) == text


@pytest.mark.parametrize("text", OBEYED.values(), ids=OBEYED.keys())
def test_what_a_terminal_would_obey_is_not_shown(text: str) -> None:
    obeyed = {one for one in text if one in "\x1b\x9b\r\x08\u202e\u2066\u2069\ufeff"}
    assert obeyed
    for shown in (harmless(text), in_line(text), escaped(text), json_text(text)):
        assert obeyed.isdisjoint(shown)


@pytest.mark.parametrize("text", [*NEEDED.values(), *OBEYED.values(), "\u2028\u2029\x7f\n\t"])
@pytest.mark.parametrize("only_ascii", [False, True])
def test_json_gives_every_text_as_it_is(text: str, only_ascii: bool) -> None:  # noqa: FBT001
    line = json_text({text: [text]}, only_ascii=only_ascii)
    assert json.loads(line) == {text: [text]}
    assert line.isascii() or not only_ascii
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ada", "ada"),
        ("Ada Lovelace", "Ada Lovelace"),
        ("\u202eevil", r"\u202eevil"),
        ("\ufeffbom", r"\ufeffbom"),
        (" ", r"\x20"),
        (" ada  ", r"\x20ada\x20\x20"),
        (NEEDED["a non-joiner of Persian"], NEEDED["a non-joiner of Persian"]),
    ],
)
def test_names_that_differ_by_what_is_not_seen_look_different(name: str, shown: str) -> None:
    assert plain_name(name) == shown


def test_line_breaks_stay_in_a_text_and_never_in_a_line() -> None:
    text = "a\nb\tc\u2028d"
    assert harmless(text) == "a\nb\tc\nd"
    assert in_line(text) == "a b c d"
    assert escaped(text) == "a\\nb\\tc\\u2028d"
