"""A server made with the official SDK; `python official.py stdio LOG` runs it as a program.

What it is asked to do, and what of it was cancelled, stands in the file LOG, a line each.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from pathlib import Path
from typing import Any

from mcp import types
from mcp.server.fastmcp import Context, FastMCP, Image
from mcp.server.fastmcp.exceptions import ToolError
from mcp.types import CallToolResult, TextContent, ToolAnnotations

READS = ToolAnnotations(readOnlyHint=True)
REPEATS = ToolAnnotations(readOnlyHint=False, idempotentHint=True)
PIXEL = base64.b64decode("R0lGODlhAQABAAAAACwAAAAAAQABAAA=")

AnyContext = Context[Any, Any, Any]


class Orders:
    """The tools that do something about orders."""

    def __init__(self, server: FastMCP, log: Path) -> None:
        self._server = server
        self._log = log

    def note(self, line: str) -> None:
        """Write a line to the log."""
        with self._log.open("a") as file:
            file.write(f"{line}\n")

    def lookup(self, order: str) -> str:
        """Look an order up."""
        self.note(f"lookup {order}")
        return f"order {order} is on its way"

    def refund(self, order: str, cents: int) -> str:
        """Refund an order."""
        self.note(f"refund {order} {cents}")
        return f"refunded {cents}"

    async def slow(self) -> str:
        """Take for ever."""
        self.note("slow begins")
        try:
            await asyncio.Event().wait()
        finally:
            self.note("slow ends")
        return ""

    def exits(self) -> str:
        """End the server's process."""
        self.note("exits")
        os._exit(3)

    async def changes(self, context: AnyContext) -> str:
        """Have `lookup` take another argument from now on."""

        def changed(number: int) -> str:
            return f"order {number}"

        self._server.remove_tool("lookup")
        self._server.add_tool(changed, name="lookup", description="Look up by number.")
        await context.session.send_tool_list_changed()
        return "changed"


def fails() -> str:
    """Fail."""
    words = "no such order: look at the number again"
    raise ToolError(words)


def picture() -> list[Any]:
    """Give an image between texts."""
    return ["before", Image(data=PIXEL, format="gif"), "behind"]


def structured() -> CallToolResult:
    """Give structured content and no text."""
    return CallToolResult(content=[], structuredContent={"state": "sent"})


def structured_error() -> CallToolResult:
    """Give an error as structured content."""
    return CallToolResult(content=[], structuredContent={"code": "LATE"}, isError=True)


def linked() -> CallToolResult:
    """Give what is no text and no image."""
    link = types.ResourceLink.model_validate(
        {"type": "resource_link", "name": "bill", "uri": "https://a.test/bill"}
    )
    sound = types.AudioContent(type="audio", data="AAAA", mimeType="audio/wav")
    return CallToolResult(content=[link, sound])


def large(count: int) -> str:
    """Give so many characters."""
    return "x" * count


def odd_name(args: list[str], config: str = "c") -> str:
    """Have a name, and arguments, that not everybody takes."""
    return f"{args} {config}"


def environment() -> str:
    """Give the names of the process's environment, and its process id."""
    return f"{os.getpid()} {' '.join(sorted(os.environ))}"  # noqa: TID251  what it was given


def asked_by(context: AnyContext) -> str:
    """Give what the call's `_meta` says."""
    meta = context.request_context.meta
    return "" if meta is None else meta.model_dump_json(exclude_none=True)


async def asks_back(context: AnyContext) -> str:
    """Ask the client for all that a server may ask for."""
    said: list[str] = []
    hi = types.SamplingMessage(role="user", content=TextContent(type="text", text="hi"))
    for asking in (
        context.session.create_message([hi], max_tokens=5),
        context.session.elicit_form("Your name?", {"type": "object", "properties": {}}),
        context.session.list_roots(),
    ):
        try:
            await asking
        except Exception as error:  # noqa: BLE001  what the client makes of it
            said.append(str(error))
    return "; ".join(said)


def official_server(log: Path, **settings: Any) -> FastMCP:
    """Make a server of orders."""
    server = FastMCP("orders", log_level="ERROR", **settings)
    orders = Orders(server, log)
    server.add_tool(orders.lookup, annotations=READS)
    server.add_tool(orders.refund, annotations=REPEATS)
    for tool in (orders.slow, orders.exits, orders.changes, fails, structured, structured_error):
        server.add_tool(tool)
    for tool in (linked, large, environment, asked_by, asks_back):
        server.add_tool(tool)
    server.add_tool(picture, structured_output=False)
    server.add_tool(odd_name, name="odd.name/here")
    return server


if __name__ == "__main__":
    official_server(Path(sys.argv[2])).run(transport="stdio")
