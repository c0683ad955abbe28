"""`millstream chat`: talk to an agent in the terminal."""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
import stat
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import typer

from millstream.gateway.client_settings import open_bus, settings_for_client
from millstream.gateway.commands.control.control import user_command
from millstream.gateway.commands.submit import follow, request_of
from millstream.gateway.console.follow import Progress
from millstream.gateway.console.running import run
from millstream.gateway.console.shows import JsonShow, TextShow
from millstream.gateway.console.terminal import progress_console
from millstream.gateway.exits import ExitCode
from millstream.schemas.base import DEFAULT_TENANT
from millstream.schemas.events import DEFAULT_TEMPLATE, AgentRequest
from millstream.streams.bus.kafka import KafkaBus

__all__ = ["chat"]

_ANSWER_MAX_S: Final = 3600.0
_PROMPT: Final = "> "
_HELP: Final = "/new begins another conversation, /quit or Ctrl-D ends; Ctrl-C stops an answer"


def chat(
    template: Annotated[str, typer.Argument(help="The agent's template.")] = DEFAULT_TEMPLATE,
    *,
    user: Annotated[str, typer.Option(help="Who talks; default: your name here.")] = "",
    session: Annotated[
        str | None, typer.Option(help="The conversation to go on with; default: a new one.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="`local`, `scripted` or `provider:name`.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="The user's tenant.")] = DEFAULT_TENANT,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the events as JSON Lines.")
    ] = False,
) -> None:
    """Talk to an agent: its answers as they are written, its calls of tools, and what each cost.

    Without a terminal, each line of standard input is a question.
    """
    asked_of = {
        "template": template,
        "user_id": user or getpass.getuser(),
        "model": model,
        "tenant": tenant,
    }
    talk = _Talk(asked_of, session or _new_session(), as_json=as_json)
    raise typer.Exit(run(talk.hold(), interrupted=talk.interrupted))


def _new_session() -> str:
    return f"chat-{secrets.token_hex(4)}"


class _Talk:
    """A conversation, question by question."""

    def __init__(self, asked_of: dict[str, Any], session: str, *, as_json: bool) -> None:
        self._asked_of = asked_of
        self._session = session
        self._as_json = as_json
        self._console = progress_console()
        self._under_way: tuple[KafkaBus, AgentRequest] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def hold(self) -> ExitCode:
        """Ask and answer until there are no more questions; gives the last answer's exit code."""
        code = ExitCode.OK
        async with open_bus(settings_for_client()) as bus:
            self._console.print(
                f"{self._asked_of['template']} answers {self._asked_of['user_id']}, "
                f"session {self._session}. {_HELP}."
            )
            async for line in _questions(as_json=self._as_json):
                text = line.strip()
                if text in {"/quit", "/exit"}:
                    break
                if text == "/new":
                    self._session = _new_session()
                    self._console.print(f"session {self._session}")
                elif text.startswith("/"):
                    self._console.print(_HELP)
                elif text:
                    code = await self._ask(bus, text)
        return code

    async def _ask(self, bus: KafkaBus, text: str) -> ExitCode:
        request = request_of(
            **self._asked_of,
            input=text,
            request_id=secrets.token_hex(8),
            session_id=self._session,
        )
        self._under_way = (bus, request)
        try:
            return await self._answered(bus, request)
        finally:
            self._under_way = None

    async def _answered(self, bus: KafkaBus, request: AgentRequest) -> ExitCode:
        show = JsonShow() if self._as_json else TextShow(model_calls=False)
        progress = Progress()
        try:
            async with asyncio.timeout(_ANSWER_MAX_S) as limit:
                code = await follow(bus, request, show, progress, steps=True)
                return ExitCode.FAILED if code is None else code
        except TimeoutError:
            if not limit.expired():
                raise
            self._console.print(f"no end of the answer within {_ANSWER_MAX_S:g} s")
            return ExitCode.TIMED_OUT

    def interrupted(self) -> bool:
        """Have the answer that is being written cancelled; tells whether there is one."""
        if self._under_way is None:
            return False
        cancelling = asyncio.ensure_future(_cancel(*self._under_way))
        self._tasks.add(cancelling)
        cancelling.add_done_callback(self._tasks.discard)
        # At a second Ctrl-C the chat itself ends.
        self._under_way = None
        return True


async def _questions(*, as_json: bool) -> AsyncIterator[str]:
    """Give line after line that somebody types, or that stands on standard input."""
    if not sys.stdin.isatty():
        async for line in _lines_of_input():
            yield line
        return
    # Only where somebody types: it is slow to import.
    from prompt_toolkit import PromptSession  # noqa: PLC0415
    from prompt_toolkit.output import create_output  # noqa: PLC0415

    # Data alone goes to standard output, also where questions are typed.
    beside = create_output(sys.stderr) if as_json or not sys.stdout.isatty() else None
    prompt: PromptSession[str] = PromptSession(output=beside)
    while True:
        try:
            yield await prompt.prompt_async(_PROMPT)
        except (EOFError, KeyboardInterrupt):
            return


async def _lines_of_input() -> AsyncIterator[str]:
    if stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode):
        for line in sys.stdin:
            yield line
        return
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode(errors="replace")


async def _cancel(bus: KafkaBus, request: AgentRequest) -> None:
    await bus.publish(
        user_command(
            "cancel",
            user=request.user_id,
            tenant=request.tenant,
            request_id=request.request_id,
            session=None,
        )
    )
