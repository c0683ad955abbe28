"""`millstream submit`: publish a request and show its answer as it is written."""

from __future__ import annotations

import asyncio
import math
import secrets
import shlex
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from millstream.gateway.client_settings import open_bus, settings_for_client
from millstream.gateway.console.asking import metadata_of, text_asked
from millstream.gateway.console.attachments import content_of
from millstream.gateway.console.follow import Progress, earlier_result, submitted
from millstream.gateway.console.running import run_within
from millstream.gateway.console.shows import JsonShow, TextShow
from millstream.gateway.console.terminal import progress_console
from millstream.gateway.exits import ExitCode
from millstream.schemas.base import DEFAULT_TENANT, words_of_problem
from millstream.schemas.errors import MillstreamError
from millstream.schemas.events import DEFAULT_TEMPLATE, AgentRequest
from millstream.streams.bus.api import EventBus, EventFilter
from millstream.streams.bus.kafka import KafkaLog
from millstream.streams.bus.record_log import RecordLog
from millstream.streams.consumer.members import lane_members
from millstream.streams.history.open_runs import runs_open
from millstream.streams.settings import Settings

__all__ = ["cancel_command", "follow", "request_of", "state_told", "submit"]

_STATE_TIMEOUT_S = 3.0
"""So long may it take, behind the time limit, to find out what state a run is in."""


def submit(
    text: Annotated[
        str | None, typer.Argument(help="What to ask; `-` reads it from standard input.")
    ] = None,
    *,
    user: Annotated[str, typer.Option(help="Who asks.")],
    session: Annotated[
        str | None, typer.Option(help="The conversation it belongs to; default: one of its own.")
    ] = None,
    expected_turn: Annotated[
        int | None,
        typer.Option(
            min=0, help="Reject it (exit 3) unless this is the session's newest turn; 0: none yet."
        ),
    ] = None,
    template: Annotated[str, typer.Option(help="The agent's template.")] = DEFAULT_TEMPLATE,
    model: Annotated[
        str | None, typer.Option(help="`local`, `scripted` or `provider:name`.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="The user's tenant.")] = DEFAULT_TENANT,
    request_id: Annotated[
        str | None,
        typer.Option(help="An id of your own: asked twice under one id, it is answered once."),
    ] = None,
    deadline_s: Annotated[
        float | None,
        typer.Option("--deadline", min=0.001, help="Seconds after which nobody wants it any more."),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the result, in all.")
    ] = 120.0,
    input_file: Annotated[
        Path | None, typer.Option("--input-file", help="Read what to ask from this file.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Comes back with the result; may be given again."),
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="An image, by its path or URL; may be given again.")
    ] = None,
    file: Annotated[
        list[str] | None, typer.Option(help="A file, by its path or URL; may be given again.")
    ] = None,
    steps: Annotated[
        bool, typer.Option("--steps", help="Show the run's calls of models and tools too.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the events as JSON Lines.")
    ] = False,
) -> None:
    """Publish a request and show the answer as it is written.

    The answer is on standard output; the request's id, how it ended and what it cost are on
    standard error. Into a file or a pipe the answer is written once it is whole.
    """
    asked = text_asked(text, input_file)
    content = content_of(image or (), file or ())
    if not asked.strip() and content is None:
        message = "there is nothing to ask: give a text, `-` for standard input, or --input-file"
        raise typer.BadParameter(message)
    if deadline_s is not None and not math.isfinite(deadline_s):
        message = f"{deadline_s} is no number of seconds"
        raise typer.BadParameter(message, param_hint="--deadline")
    deadline_ms = None if deadline_s is None else time.time_ns() // 10**6 + round(deadline_s * 1000)
    request = request_of(
        user_id=user,
        tenant=tenant,
        input=asked,
        content=content,
        request_id=request_id or secrets.token_hex(8),
        session_id=session,
        expected_turn=expected_turn,
        template=template,
        model=model,
        deadline_ms=deadline_ms,
        metadata=metadata_of(metadata or ()),
    )
    show = JsonShow() if as_json else TextShow()
    settings = settings_for_client()
    on_its_way = _OnItsWay(settings, request, show, timeout_s)
    main = _submit(settings, on_its_way, maybe_known=request_id is not None, steps=steps)
    code = run_within(timeout_s, main, on_its_way.late)
    if on_its_way.progress.given_up and on_its_way.progress.address is not None:
        # Told beside what was said already: Kafka may not answer.
        run_within(_STATE_TIMEOUT_S, on_its_way.tell_state(), lambda: code)
    raise typer.Exit(code)


def request_of(**fields: Any) -> AgentRequest:
    """Make a request that is asked now. Raises `typer.BadParameter` that says what is wrong."""
    try:
        return AgentRequest(**fields, at_ms=time.time_ns() // 10**6)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        message = f"{field}: {words_of_problem(problem)}"
        raise typer.BadParameter(message) from error


async def _submit(
    settings: Settings, on_its_way: _OnItsWay, *, maybe_known: bool, steps: bool
) -> ExitCode:
    request, show = on_its_way.request, on_its_way.show
    async with open_bus(settings) as bus, _told_of_its_template(settings, request):
        earlier = await earlier_result(bus, request) if maybe_known else None
        if earlier is not None:
            progress_console().print(
                f"request {request.request_id} of {request.user_id} has ended before; its result:"
            )
            on_its_way.code = show.take(earlier)
        else:
            on_its_way.code = await follow(
                bus, request, show, on_its_way.progress, steps=steps, names_it=True
            )
    return ExitCode.FAILED if on_its_way.code is None else on_its_way.code


@asynccontextmanager
async def _told_of_its_template(settings: Settings, request: AgentRequest) -> AsyncIterator[None]:
    """Say meanwhile if no live worker has the template: the request waits for one that has."""
    if request.template == DEFAULT_TEMPLATE:
        yield
        return
    telling = asyncio.create_task(_tell_of_template(settings, request.template))
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _tell_of_template(settings: Settings, template: str) -> None:
    try:
        members = await lane_members(settings)
    except MillstreamError:
        return  # it is no part of the request; what is wrong is told there
    abilities = [one.can_run for one in members]
    known = {name for one in abilities if one is not None for name in one.names}
    # One of a version that does not say may have it.
    if None not in abilities and known and template not in known:
        progress_console().print(
            f"note: no worker that runs has a template {template!r}, the request waits a while for "
            f"one that has; there are: {', '.join(sorted(known))}"
        )


async def follow(
    bus: EventBus,
    request: AgentRequest,
    show: JsonShow | TextShow,
    progress: Progress,
    *,
    steps: bool = False,
    names_it: bool = False,
) -> ExitCode | None:
    """Publish a request and show what comes of it; `steps` too, and with `names_it` its id."""
    try:
        async with submitted(bus, request, steps=steps, progress=progress) as (address, coming):
            if names_it:
                progress_console().print(f"request {request.request_id} ({address})")
            async for told in coming:
                code = show.take(told)
                if code is not None:
                    return code
    except asyncio.CancelledError:
        show.broke_off()
        if progress.address is not None and not progress.given_up:
            progress_console().print(
                f"request {request.request_id} goes on, and costs what it costs; to end it: "
                f"`{cancel_command(request)}`"
            )
        raise
    return None


class _OnItsWay:
    """A request that is waited for, and what is said of it when there is no time left."""

    def __init__(
        self,
        settings: Settings,
        request: AgentRequest,
        show: JsonShow | TextShow,
        timeout_s: float,
    ) -> None:
        self.request = request
        self.show = show
        self.progress = Progress()
        self.code: ExitCode | None = None
        self._settings = settings
        self._timeout_s = timeout_s

    def late(self) -> ExitCode:
        """Say what is known of the request; gives the exit code."""
        if self.code is not None:
            return self.code  # only the clients have not closed
        self.progress.given_up = True
        self.show.broke_off()
        progress_console().print(self._told())
        return ExitCode.TIMED_OUT

    def _told(self) -> str:
        request_id, limit = self.request.request_id, f"{self._timeout_s:g} s"
        address = self.progress.address
        if address is None:
            return (
                f"Kafka at {self._settings.kafka} has not taken request {request_id} within "
                f"{limit}; it may have arrived all the same. Submitted again with --request-id "
                f"{request_id} it is answered once. See `millstream doctor`."
            )
        follow_up = f"`millstream history --request {request_id}`"
        if self.progress.taken_up:
            return (
                f"no result of request {request_id} ({address}) within {limit}, though a worker "
                f"has taken it up: `{_show_command(self.request)}` says what it does or waits for. "
                f"{follow_up} shows what comes of it, `{cancel_command(self.request)}` ends it."
            )
        return (
            f"no result of request {request_id} ({address}) within {limit}, and no worker has "
            f"taken it up. It may still come: {follow_up}. Does a worker run? See "
            "`millstream doctor`."
        )

    async def tell_state(self) -> ExitCode:
        """Say what the request's run does or waits for, if the log tells."""
        try:
            told = await state_told(KafkaLog(self._settings), self._settings, self.request)
        except MillstreamError:
            told = None  # Kafka does not answer, or this user may not read where it stands
        if told is not None:
            progress_console().print(told)
        return ExitCode.TIMED_OUT


async def state_told(log: RecordLog, settings: Settings, request: AgentRequest) -> str | None:
    """Say what state a request's run is in, and why; `None` where no such run is open.

    The log need not be started. Raises as `runs_open`.
    """
    wanted = EventFilter(
        user_id=request.user_id,
        tenant=request.tenant,
        session_id=request.session_id or request.request_id,  # it may wait behind another of these
    )
    found = await runs_open(log, settings, wanted, now_ms=time.time_ns() // 10**6)
    return next(
        (
            f"request {one.request_id} is {one.state}: {one.why}"
            for one in found.runs
            if one.request_id == request.request_id
        ),
        None,
    )


def _show_command(request: AgentRequest) -> str:
    words = ["millstream", "runs", "show", str(request.request_id), "--user", request.user_id]
    return shlex.join([*words, *_tenant_words(request)])


def cancel_command(request: AgentRequest) -> str:
    """Give the command line that cancels a request."""
    words = ["millstream", "cancel", "--user", request.user_id]
    return shlex.join([*words, *_tenant_words(request), "--request", str(request.request_id)])


def _tenant_words(request: AgentRequest) -> list[str]:
    return [] if request.tenant == DEFAULT_TENANT else ["--tenant", request.tenant]
