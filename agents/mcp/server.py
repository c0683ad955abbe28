"""What an app says of an MCP server: where it is, its credentials, and how far it is trusted."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, StringConstraints, field_validator, model_validator

from millstream.schemas.base import Frozen

__all__ = ["CallerField", "Effect", "McpServer"]

Effect = Literal["read_only", "idempotent", "ask_human"]
"""A tool's effect, as `millstream.agents.tools` has them; no server's tool can be reconciled."""

CallerField = Literal["tenant", "user", "request_id", "session_id", "idempotency_key"]
"""What a server may be told of a call's caller, as `millstream/<field>` in the call's `_meta`."""

ServerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e\t]*$", max_length=8192)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

# The transport says these itself; a server would misread the others.
_KEPT_HEADERS = frozenset(
    {"accept", "content-length", "content-type", "host", "mcp-session-id", "transfer-encoding"}
)


class McpServer(Frozen):
    """An MCP server whose tools an app's templates may name.

    A server is a program (`command`, `args`, `env`, `cwd`), spoken to by its standard input and
    output, or has a `url`, spoken to by streamable HTTP, with `headers`. A program gets `env`, what
    `env_files` hold, and of the worker's environment only the PATH and what says who and where it
    is: HOME, LANG, LOGNAME, SHELL, TERM, TMPDIR, TZ, USER.

    Credentials are read from files, and read again when a file changes: `bearer_token_file` and
    `headers_files` (a header's name, its file) for a `url`, `env_files` (a variable's name, its
    file) for a program. The file holds the value and nothing else; only its owner and group may
    read it.

    `tools` are the names, or globs of names, of the server's tools that are offered. With `prefix`
    the model sees a tool as `<name>_<tool>`, else by its own name; what is no letter, digit, hyphen
    or underscore in it becomes an underscore.

    `trusted`: what the server says of its tools' effects is believed. Without, each tool is taken
    to have effects. `effects` (a tool's name or a glob, its effect) says otherwise in either case.

    A call ends after `timeout_s` seconds, a connection is given up after `connect_timeout_s`. A
    list of tools is taken for up to date for `list_max_age_s` seconds. A result is cut to
    `result_bytes_max` bytes; one of more than `answer_bytes_max` is not read.

    `send_caller`: what the server is told of whom a call is made for; by default nothing.
    """

    # A misspelt field would be a credential that silently is not sent.
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ServerName
    command: Annotated[str, Field(min_length=1)] | None = None
    args: tuple[str, ...] = ()
    env: dict[VariableName, str] = Field(default_factory=dict)
    env_files: dict[VariableName, Path] = Field(default_factory=dict)
    cwd: Path | None = None
    url: str | None = None
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    headers_files: dict[HeaderName, Path] = Field(default_factory=dict)
    bearer_token_file: Path | None = None
    tools: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = ("*",)
    prefix: bool = True
    trusted: bool = False
    effects: dict[str, Effect] = Field(default_factory=dict)
    send_caller: tuple[CallerField, ...] = ()
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    connect_timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0
    list_max_age_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    result_bytes_max: Annotated[int, Field(ge=256, le=200_000)] = 32_768
    answer_bytes_max: Annotated[int, Field(ge=1024, le=67_108_864)] = 4_194_304
    tools_max: Annotated[int, Field(ge=1, le=1000)] = 128
    tool_bytes_max: Annotated[int, Field(ge=256, le=262_144)] = 32_768

    @field_validator("url")
    @classmethod
    def _is_an_http_url(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                message = "must be a whole http:// or https:// address"
                raise ValueError(message)
            if parts.username or parts.password:
                message = "must hold no credentials: name a file with them in `headers_files`"
                raise ValueError(message)
        return url

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.command is None) == (self.url is None):
            message = "give either `command`, for a program, or `url`, for streamable HTTP"
            raise ValueError(message)
        for_the_other = (
            ("args", "env", "env_files", "cwd")
            if self.command is None
            else ("headers", "headers_files", "bearer_token_file")
        )
        if wrong := [field for field in for_the_other if getattr(self, field)]:
            kind = "`url`" if self.command is None else "`command`"
            message = f"`{'`, `'.join(wrong)}` is not for a server with {kind}"
            raise ValueError(message)
        names = [name.lower() for name in (*self.headers, *self.headers_files)]
        if self.bearer_token_file is not None:
            names.append("authorization")
        if twice := {name for name in names if names.count(name) > 1}:
            message = f"the header {min(twice)!r} is given twice"
            raise ValueError(message)
        if kept := _KEPT_HEADERS.intersection(names):
            message = f"the header {min(kept)!r} is the transport's own"
            raise ValueError(message)
        if twice := set(self.env) & set(self.env_files):
            message = f"the variable {min(twice)!r} is in `env` and in `env_files`"
            raise ValueError(message)
        return self

    def offers(self, tool: str) -> bool:
        """Say whether a tool of the server is offered."""
        return any(fnmatchcase(tool, glob) for glob in self.tools)

    def effect_of(self, tool: str, *, read_only: bool, idempotent: bool) -> Effect:
        """Give a tool's effect; `read_only` and `idempotent` are what the server says of it."""
        for glob, effect in self.effects.items():
            if fnmatchcase(tool, glob):
                return effect
        if self.trusted and read_only:
            return "read_only"
        if self.trusted and idempotent:
            return "idempotent"
        return "ask_human"
