from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from millstream.agents.mcp.server import McpServer


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "either `command`"),
        ({"command": "a", "url": "http://a.test"}, "either `command`"),
        ({"command": "a", "bearer_token_file": "/x"}, "`bearer_token_file` is not for a server"),
        ({"url": "http://a.test", "env": {"A": "b"}}, "`env` is not for a server with `url`"),
        ({"url": "ftp://a.test"}, "whole http:// or https://"),
        ({"url": "https://ada:secret@a.test"}, "hold no credentials"),
        ({"url": "http://a.test", "headers": {"Host": "b.test"}}, "the transport's own"),
        ({"url": "http://a.test", "headers": {"A": "b\r\nC: d"}}, "headers.A"),
        ({"url": "http://a.test", "headers": {"A": "b"}, "headers_files": {"a": "/x"}}, "twice"),
        ({"command": "a", "env": {"A": "b"}, "env_files": {"A": "/x"}}, "in `env_files`"),
        ({"command": "a", "name": "two words"}, "name"),
        ({"command": "a", "effects": {"*": "reconcile"}}, "effects"),
        ({"command": "a", "tokne": "b"}, "tokne"),
    ],
)
def test_a_mistake_is_told_by_its_field(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        McpServer.model_validate({"name": "orders"} | fields)
    assert words in str(raised.value)
    assert "secret" not in str(raised.value).partition("[type=")[0]


def test_what_a_server_says_of_effects_is_believed_only_where_it_is_trusted() -> None:
    stranger = McpServer(name="a", command="a")
    assert stranger.effect_of("x", read_only=True, idempotent=True) == "ask_human"
    trusted = McpServer(name="a", command="a", trusted=True, effects={"pay*": "ask_human"})
    assert trusted.effect_of("x", read_only=True, idempotent=False) == "read_only"
    assert trusted.effect_of("x", read_only=False, idempotent=True) == "idempotent"
    assert trusted.effect_of("x", read_only=False, idempotent=False) == "ask_human"
    assert trusted.effect_of("pay_all", read_only=True, idempotent=True) == "ask_human"
    said_by_us = McpServer(name="a", command="a", effects={"get_*": "read_only"})
    assert said_by_us.effect_of("get_it", read_only=False, idempotent=False) == "read_only"


def test_tools_are_offered_by_name_and_by_glob() -> None:
    server = McpServer(name="a", command="a", tools=("get_*", "send"))
    assert [name for name in ("get_it", "send", "send_all") if server.offers(name)] == [
        "get_it",
        "send",
    ]
