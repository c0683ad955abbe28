"""What a server lists, held to bounds: its tools under names that every provider takes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any, Final

import jsonschema
from mcp import types

from millstream.agents.mcp.server import Effect, McpServer
from millstream.agents.sessions.text import cut_to_bytes, well_formed, well_formed_value

__all__ = ["Listing", "Offered", "listing_of", "model_name"]

NAME_CHARS_MAX: Final = 64
DESCRIPTION_BYTES_MAX: Final = 4_096

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]")
# LangChain keeps these for itself, or loses them.
_RESERVED: Final = re.compile(
    r"(?:config|run_manager|callbacks|runtime|self|args|kwargs|model_config|_.*)"
)


@dataclass(frozen=True, slots=True)
class Offered:
    """A tool as it was listed.

    Attributes:
        tool: Its name at the server.
        name: Its name to templates and models.
        description: What the server says of it, cut.
        schema: The JSON schema of its arguments.
        effect: What a call does that stays done.
        digest: Of all that matters to a call: another one is another tool.
        arguments: The names of arguments at the server, where the model knows them by others.
    """

    tool: str
    name: str
    description: str
    schema: dict[str, Any]
    effect: Effect
    digest: str
    arguments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing:
    """The tools of a server that are offered, by their names at the server, and what is not."""

    tools: Mapping[str, Offered] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def matching(self, glob: str) -> tuple[str, ...]:
        """Give the names to models of the tools that a name or glob means, sorted."""
        return tuple(
            sorted(
                one.name
                for one in self.tools.values()
                if fnmatchcase(one.tool, glob) or fnmatchcase(one.name, glob)
            )
        )


def model_name(server: McpServer, tool: str) -> str:
    """Give a tool's name to templates and models: letters, digits, `_` and `-`."""
    plain = _NOT_IN_NAMES.sub("_", tool)
    return f"{server.name}_{plain}" if server.prefix else plain


def listing_of(server: McpServer, listed: Iterable[types.Tool]) -> Listing:
    """Give what is offered of what a server lists. A tool that cannot be is left out, and told."""
    tools: dict[str, Offered] = {}
    problems: list[str] = []
    wanted = [one for one in listed if server.offers(one.name)]
    taken = Counter(model_name(server, one.name) for one in wanted)
    if len(wanted) > server.tools_max:
        problems.append(f"it lists more than {server.tools_max} tools: the others are left out")
    for one in wanted[: server.tools_max]:
        name = model_name(server, one.name)
        shown = f"its tool {one.name[:100]!r} is left out: "
        if taken[name] > 1:
            # No third name is made up: templates could not know it (leviath#880).
            problems.append(f"{shown}two tools would be called {name!r}")
        elif not name or len(name) > NAME_CHARS_MAX:
            problems.append(f"{shown}{name!r} has more than {NAME_CHARS_MAX} characters")
        elif (problem := _problem(server, one)) is not None:
            problems.append(shown + problem)
        else:
            tools[one.name] = _offered(server, name, one)
    return Listing(tools, tuple(problems))


def _problem(server: McpServer, tool: types.Tool) -> str | None:
    schema = tool.inputSchema
    size = len(json.dumps(schema).encode())
    if size > server.tool_bytes_max:
        return f"its schema has {size} bytes, more than {server.tool_bytes_max}"
    if schema.get("type", "object") != "object":
        return "its schema is not that of an object"
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        return f"its schema is none: {error.message[:200]}"
    except RecursionError:
        return "its schema is nested too deeply"
    return None


def _offered(server: McpServer, name: str, tool: types.Tool) -> Offered:
    hints = tool.annotations or types.ToolAnnotations()
    effect = server.effect_of(
        tool.name,
        read_only=hints.readOnlyHint is True,
        idempotent=hints.idempotentHint is True,
    )
    schema: dict[str, Any] = well_formed_value(tool.inputSchema)
    text = json.dumps([schema, effect], sort_keys=True)
    renamed = _renamed(schema)
    return Offered(
        tool=tool.name,
        name=name,
        description=cut_to_bytes(
            well_formed(tool.description or tool.title or tool.name), DESCRIPTION_BYTES_MAX
        ),
        schema=_with_renamed(schema, renamed),
        effect=effect,
        digest=sha256(text.encode()).hexdigest(),
        arguments={new: old for old, new in renamed.items()},
    )


def _renamed(schema: Mapping[str, Any]) -> dict[str, str]:
    """Give other names for the arguments that LangChain would not hand on."""
    names = schema.get("properties", {})
    renamed: dict[str, str] = {}
    for name in names:
        if _RESERVED.fullmatch(name):
            new = f"{name.lstrip('_') or 'argument'}_"
            while new in names or new in renamed.values():
                new += "_"
            renamed[name] = new
    return renamed


def _with_renamed(schema: dict[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    if not renamed:
        return schema
    properties = {renamed.get(name, name): one for name, one in schema["properties"].items()}
    required = [renamed.get(name, name) for name in schema.get("required", ())]
    return {**schema, "properties": properties, "required": required}
