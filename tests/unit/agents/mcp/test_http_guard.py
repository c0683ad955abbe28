from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millstream.agents.mcp.failures import McpFailed
from millstream.agents.mcp.server import McpServer
from millstream.agents.tools.outcomes import CallNotMade, OutcomeUnknown
from tests.fakes.mcp.bad_http import BadServer, bad_server
from tests.harness.mcp import open_tools
from tests.support.waiting import eventually


@pytest.fixture
async def bad() -> AsyncIterator[BadServer]:
    async with bad_server() as server:
        yield server


def at(bad: BadServer, **fields: object) -> McpServer:
    given = {"name": "bad", "url": bad.url, "timeout_s": 10, "answer_bytes_max": 1_000_000}
    return McpServer.model_validate(given | fields)


@pytest.mark.parametrize(
    ("mode", "words", "sent"),
    [
        ("status", "answered HTTP 500", True),
        ("credentials", "refused the credentials (HTTP 401)", False),
        ("too many", "answered HTTP 429", False),
        ("internal", "refused: no (code -32603)", True),
        ("html", "answered with text/html instead of JSON", True),
        ("no json", "answered with what is no JSON", True),
        ("no utf-8", "answered with what is no JSON", True),
        ("no json-rpc", "answered with what is no JSON-RPC", True),
        ("no result", "answered with what is no JSON-RPC", True),
        ("wrong result", "answered what is no answer", True),
        ("wrong id", "answered another call than was made", True),
        ("large", "answered with more than 1000000 bytes", True),
        ("breaks off", "broke off", True),
        ("never", "did not answer within 1 s", True),
        ("events end", "ended its answer before it was whole", True),
        ("garbage events", "ended its answer before it was whole", True),
        ("endless events", "ended its answer before it was whole", True),
    ],
)
async def test_what_is_wrong_with_an_answer_fails_its_call_alone(
    bad: BadServer, mode: str, words: str, *, sent: bool
) -> None:
    async with open_tools(at(bad, timeout_s=1 if mode == "never" else 10)) as opened:
        bad.mode = mode
        with pytest.raises(McpFailed) as raised:
            await opened.call("bad_do")
        assert words in str(raised.value)
        assert str(raised.value).startswith("the MCP server 'bad' ")
        assert isinstance(raised.value, OutcomeUnknown if sent else CallNotMade)
        bad.mode = "well"
        assert (await opened.call("bad_do")).content == "done"
    # It is one session all the time: nothing was begun anew.
    assert [one["method"] for one in bad.requests].count("initialize") == 1


async def test_a_call_goes_on_while_another_one_fails(bad: BadServer) -> None:
    async with open_tools(at(bad, timeout_s=10)) as opened:
        bad.mode = "never"
        waits = asyncio.ensure_future(opened.call("bad_do"))
        await eventually(lambda: bad.requests[-1]["method"] == "tools/call")
        bad.mode = "status"
        with pytest.raises(McpFailed):
            await opened.call("bad_do")
        bad.let_go.set()
        assert (await waits).content == "done"


async def test_credentials_go_with_each_request_and_to_no_other_host(
    bad: BadServer, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    token.chmod(0o600)
    server = at(bad, bearer_token_file=token, headers_files={"X-Api-Key": token})
    async with bad_server() as other, open_tools(server) as opened:
        bad.mode, bad.elsewhere = "redirect", other.url
        with pytest.raises(McpFailed, match="where its credentials do not go"):
            await opened.call("bad_do")
        assert other.requests == []
    posts = [one for one in bad.headers if "content-type" in one]
    assert {one.get("authorization") for one in posts} == {"Bearer s3cret"}
    assert {one.get("x-api-key") for one in posts} == {"s3cret"}


async def test_a_credential_that_can_be_read_no_more_fails_the_call_and_is_not_shown(
    bad: BadServer, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    token.chmod(0o600)
    async with open_tools(at(bad, bearer_token_file=token)) as opened:
        asked = len(bad.requests)
        token.unlink()
        with pytest.raises(McpFailed, match="bearer_token_file") as raised:
            await opened.call("bad_do")
        assert isinstance(raised.value, CallNotMade)
        assert len(bad.requests) == asked
        token.write_text("n3w")
        token.chmod(0o600)
        assert (await opened.call("bad_do")).content == "done"
        assert bad.headers[-1]["authorization"] == "Bearer n3w"


async def test_a_list_whose_cursor_does_not_advance_ends(bad: BadServer) -> None:
    bad.cursor = "again"
    async with open_tools(at(bad)) as opened:
        assert opened.tools.status()[0].problem is None
    assert [one["method"] for one in bad.requests].count("tools/list") == 2
