"""The app's tests: in memory, with scripts for a model, and the real shop."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest

from millstream import InMemoryApp, run_agent
from order_support import shop, tools
from order_support.app import app


@pytest.fixture(autouse=True)
def _shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(shop, "ORDERS", {number: dict(one) for number, one in shop.ORDERS.items()})
    monkeypatch.setattr(shop, "REFUNDS", {})
    with ThreadingHTTPServer(("127.0.0.1", 0), shop.Shop) as server:
        monkeypatch.setattr(tools, "SHOP_URL", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


REFUND = 'call: refund_order {"number": "A-1001", "reason": "it leaks"}; say: {tool_result}'


def test_a_customer_is_told_of_their_order() -> None:
    script = 'call: find_order {"number": "A-1002"}; say: {tool_result}'
    run = run_agent(app, "order_support", "Where is A-1002?", user="ada", script=script)
    assert run.status == "completed", run.reason
    assert "on its way" in run.output


def test_an_order_is_refunded_once() -> None:
    first = run_agent(app, "order_support", "Refund!", user="ada", script=REFUND)
    again = run_agent(app, "order_support", "Again!", user="ada", script=REFUND)
    assert "refunded" in first.output
    assert "already" in again.output
    assert list(shop.REFUNDS.values()) == ["A-1001"]


def test_another_customers_order_does_not_exist() -> None:
    run = run_agent(app, "order_support", "Refund A-1001", user="bob", script=REFUND)
    assert "no such order" in run.output
    assert shop.REFUNDS == {}


async def ask_twice_and_once_more() -> list[str]:
    async with InMemoryApp(app, script="slow: 0.2; say: yes") as memory:
        runs = [memory.run("order_support", "Is it there?", user="ada") for _ in range(2)]
        together = [run.status for run in await asyncio.gather(*runs)]
        later = await memory.run("order_support", "Now?", user="ada")
        return [*sorted(together), later.status]


def test_a_second_question_waits_for_the_answer_to_the_first() -> None:
    assert asyncio.run(ask_twice_and_once_more()) == ["completed", "rejected", "completed"]
