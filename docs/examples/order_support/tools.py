"""The agent's tools: they ask the shop over HTTP, in the name of the customer who asks."""

import os
from http import HTTPStatus
from urllib.parse import quote

import aiohttp
from langgraph.prebuilt import ToolRuntime

from millstream import Caller, tool

SHOP_URL = os.environ.get("SHOP_URL", "http://127.0.0.1:8900")


@tool(effect="read_only", timeout_s=10)
async def find_order(number: str, runtime: ToolRuntime[Caller]) -> str:
    """Look up an order of the customer by its number: what it is, what it cost, and its state."""
    return await _ask("GET", f"/orders/{quote(number, safe='')}", runtime.context)


@tool(effect="idempotent", timeout_s=10, ends_run_on_error=True)
async def refund_order(number: str, reason: str, runtime: ToolRuntime[Caller]) -> str:
    """Refund an order of the customer, for a reason in a few words."""
    path = f"/orders/{quote(number, safe='')}/refund"
    return await _ask("POST", path, runtime.context, {"reason": reason})


async def _ask(method: str, path: str, caller: Caller, body: dict[str, str] | None = None) -> str:
    # The shop is told who asks by us, not by the model; and it refunds once for each key.
    headers = {"X-Customer": caller.user_id}
    if caller.idempotency_key is not None:
        headers["Idempotency-Key"] = caller.idempotency_key
    async with (
        aiohttp.ClientSession(SHOP_URL) as http,
        http.request(method, path, json=body, headers=headers) as answer,
    ):
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            answer.raise_for_status()
        return await answer.text()
