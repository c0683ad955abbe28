from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from anyio import BrokenResourceError
from typing_extensions import override

from millstream.agents.mcp.connection import Connection
from millstream.agents.mcp.failures import McpFailed
from millstream.agents.mcp.server import McpServer
from millstream.agents.tools.outcomes import CallNotMade
from millstream.streams.hosting import count_mcp_servers
from millstream.streams.telemetry.metrics import MetricsCollector
from tests.fakes.mcp.bad_http import bad_server
from tests.fakes.mcp.over_http import free_port, served
from tests.harness.mcp import official_program, open_tools
from tests.support.waiting import eventually


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def at(url: str, **fields: object) -> McpServer:
    return McpServer.model_validate({"name": "orders", "url": url} | fields)


@pytest.mark.parametrize("stateless", [False, True])
async def test_a_server_by_http_is_called_with_and_without_sessions(
    log: Path, *, stateless: bool
) -> None:
    with served(log, stateless=stateless) as up:
        async with open_tools(at(up.url)) as opened:
            answer = await opened.call("orders_lookup", order="7")
            assert answer.content == "order 7 is on its way"
            answers = await asyncio.gather(
                *(opened.call("orders_lookup", order=str(number)) for number in range(5))
            )
            assert [one.content for one in answers] == [
                f"order {number} is on its way" for number in range(5)
            ]
        assert any("mcp-session-id" in one for one in up.headers) is not stateless


@pytest.mark.parametrize("stateless", [False, True])
async def test_a_server_that_was_started_again_is_called_as_if_nothing_was(
    log: Path, *, stateless: bool
) -> None:
    port = free_port()
    with served(log, stateless=stateless, port=port) as up:
        url = up.url
        tools = open_tools(at(url))
        opened = await tools.__aenter__()
        await opened.call("orders_lookup", order="1")
    with pytest.raises(McpFailed, match="cannot be reached") as raised:
        await opened.call("orders_lookup", order="2")
    assert isinstance(raised.value, CallNotMade)
    # A session that it knows no more is begun anew (python-sdk#1676).
    with served(log, stateless=stateless, port=port):
        assert (await opened.call("orders_lookup", order="3")).content == "order 3 is on its way"
        await tools.__aexit__(None, None, None)
    assert lines(log) == ["lookup 1", "lookup 3"]


async def test_a_call_that_is_cancelled_is_cancelled_at_the_server(log: Path) -> None:
    async with open_tools(official_program(log)) as opened:
        call = asyncio.ensure_future(opened.call("orders_slow"))
        await eventually(lambda: log.exists() and "slow begins" in log.read_text())
        call.cancel()
        await eventually(lambda: "slow ends" in log.read_text())
        # The session outlives it (python-sdk#2507, qwen-code#11272).
        assert (await opened.call("orders_lookup", order="7")).content == "order 7 is on its way"
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_call_that_takes_too_long_is_cancelled_at_the_server(log: Path) -> None:
    with served(log) as up:
        async with open_tools(at(up.url, timeout_s=0.3)) as opened:
            with pytest.raises(McpFailed, match=r"did not answer within 0\.3 s"):
                await opened.call("orders_slow")
            await eventually(lambda: log.read_text() == "slow begins\nslow ends\n")


async def test_a_blocked_loop_of_agents_holds_up_no_other_loops_calls(log: Path) -> None:
    async with open_tools(official_program(log)) as opened:
        blocked, go = asyncio.Event(), asyncio.Event()
        this = asyncio.get_running_loop()

        def other_loop() -> None:
            async def call() -> None:
                await opened.call("orders_lookup", order="1")
                this.call_soon_threadsafe(blocked.set)
                # Blocks this loop until the other one had its answer.
                asyncio.run_coroutine_threadsafe(go.wait(), this).result(10)

            asyncio.run(call())

        other = asyncio.ensure_future(asyncio.to_thread(other_loop))
        await blocked.wait()
        assert (await opened.call("orders_lookup", order="2")).content == "order 2 is on its way"
        go.set()
        await other


async def test_a_loop_that_ends_in_the_middle_of_a_call_leaves_the_session_to_others(
    log: Path,
) -> None:
    async with open_tools(official_program(log)) as opened:

        def given_up() -> None:
            loop = asyncio.new_event_loop()
            call = loop.create_task(opened.call("orders_slow"))
            loop.run_until_complete(asyncio.wait([call], timeout=0.1))
            call.cancel()
            loop.run_until_complete(asyncio.wait([call]))
            loop.close()

        await asyncio.to_thread(given_up)
        assert (await opened.call("orders_lookup", order="2")).content == "order 2 is on its way"


async def test_a_tool_that_changed_is_not_called_with_arguments_of_before(log: Path) -> None:
    async with open_tools(official_program(log)) as opened:
        (before,) = opened.registry.pick(["orders_lookup"])
        generation = opened.registry.generation
        assert (await opened.call("orders_changes")).content == "changed"
        await eventually(lambda: opened.registry.generation > generation)
        call = {"name": before.name, "args": {"order": "7"}, "id": "1", "type": "tool_call"}
        with pytest.raises(McpFailed, match="changed since this agent was told") as raised:
            await before.ainvoke(call)
        assert isinstance(raised.value, CallNotMade)
        assert (await opened.call("orders_lookup", number=7)).content == "order 7"
    assert lines(log) == []


async def test_a_change_that_nobody_tells_of_is_found_when_the_list_is_old() -> None:
    async with bad_server() as bad:
        server = McpServer(name="bad", url=bad.url, list_max_age_s=0.001)
        async with open_tools(server) as opened:
            (before,) = opened.registry.pick(["bad_do"])
            assert (await opened.call("bad_do")).content == "done"
            bad.tools = [{**bad.tools[0], "inputSchema": {"type": "object", "required": ["a"]}}]
            call = {"name": "bad_do", "args": {}, "id": "1", "type": "tool_call"}
            with pytest.raises(McpFailed, match="changed since"):
                await before.ainvoke(call)
            assert (await opened.call("bad_do", a=1)).content == "done"
            bad.tools = []
            with pytest.raises(McpFailed, match="offers no 'do' any more"):
                await opened.call("bad_do", a=1)


async def test_a_server_may_ask_for_nothing(log: Path) -> None:
    async with open_tools(official_program(log)) as opened:
        said = str((await opened.call("orders_asks_back")).content)
        assert said.count("not supported") == 3


async def test_a_server_that_is_down_at_first_is_listed_when_it_comes(log: Path) -> None:
    port = free_port()
    server = at(f"http://127.0.0.1:{port}/mcp")
    async with open_tools(server) as opened:
        assert "cannot be reached" in str(opened.tools.status()[0].problem)
        (stand_in,) = opened.registry.pick(["orders.lookup"])
        assert "Unavailable now" in stand_in.description
        with pytest.raises(McpFailed, match=r"cannot be reached.*: the call was not made"):
            await opened.call("orders.lookup")
        assert opened.registry.rules("orders_lookup").effect == "ask_human"
        with served(log, port=port):
            await eventually(lambda: opened.tools.status()[0].problem is None)
            answer = await opened.call("orders.lookup", order="7")
            assert answer.content == "order 7 is on its way"


async def test_servers_that_cannot_be_used_are_counted(log: Path) -> None:
    down = at(f"http://127.0.0.1:{free_port()}/mcp", name="down")
    async with open_tools(official_program(log), down) as opened:
        collector = MetricsCollector()
        count_mcp_servers(opened.tools, collector)
        assert collector.registry.get_sample_value("millstream_mcp_servers_unavailable") == 1


async def test_the_caller_is_told_to_nobody_unless_the_app_says_so(log: Path) -> None:
    async with open_tools(official_program(log)) as opened:
        assert (await opened.call("orders_asked_by")).content == "(nothing)"


class BreaksOnItsWayOut(Connection):
    """A connection whose tasks raise as they are cancelled: an answer came as it was closed."""

    holding = False

    @override
    async def _hold(self) -> None:
        self.holding = True
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            message = "unhandled errors in a TaskGroup"
            raise ExceptionGroup(message, [BrokenResourceError()]) from None


async def test_a_connection_that_breaks_as_it_is_closed_stays_closed() -> None:
    server = McpServer(name="orders", command="orders")
    held = BreaksOnItsWayOut(server, environment={}, on_listed=lambda _: None)
    running = asyncio.create_task(held.run())
    await eventually(lambda: held.holding)
    running.cancel()
    async with asyncio.timeout(2):
        await asyncio.wait([running])
    assert running.cancelled()
