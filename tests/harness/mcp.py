"""MCP servers for tests: the tools of some in a registry, called as an agent calls them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from langchain_core.messages import ToolMessage

from millstream.agents.mcp.server import McpServer
from millstream.agents.mcp.tools import McpTools
from millstream.agents.tools import ToolRegistry, built_in_tools
from tests.fakes import mcp as fakes

__all__ = ["BAD_PROGRAM", "OFFICIAL", "OpenTools", "official_program", "open_tools"]

OFFICIAL = str(Path(fakes.__file__).with_name("official.py"))
BAD_PROGRAM = str(Path(fakes.__file__).with_name("bad_program.py"))


def official_program(log: Path, **fields: Any) -> McpServer:
    """Give the official server as a program."""
    return McpServer.model_validate(
        {"name": "orders", "command": sys.executable, "args": (OFFICIAL, "stdio", str(log))}
        | fields
    )


class OpenTools:
    """Servers that are open, and the registry that has their tools."""

    def __init__(self, tools: McpTools, registry: ToolRegistry) -> None:
        self.tools = tools
        self.registry = registry

    async def call(self, tool: str, **args: Any) -> ToolMessage:
        """Call a tool by the name that a template would name it by."""
        (picked,) = self.registry.pick([tool])
        call = {"name": picked.name, "args": args, "id": "1", "type": "tool_call"}
        answer = await picked.ainvoke(call)
        assert isinstance(answer, ToolMessage)
        return answer

    def connection(self, server: str) -> Any:
        """Give a server's connection."""
        return self.tools._connections[server]


@asynccontextmanager
async def open_tools(*servers: McpServer, **environment: str) -> AsyncIterator[OpenTools]:
    """Open servers until the end of the block."""
    tools = McpTools(servers, environment=environment)
    registry = ToolRegistry(built_in_tools())
    try:
        await tools.open(registry)
        yield OpenTools(tools, registry)
    finally:
        await tools.close()
