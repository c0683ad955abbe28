"""`millstream submit`: publish a request and show its answer as it is written."""

from __future__ import annotations

import asyncio
import math
import secrets
import shlex
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from millstream.gateway.client_settings import open_bus, settings_for_client
from millstream.gateway.console.attachments import content_of
from millstream.gateway.console.follow import Told, earlier_result, submitted
from millstream.gateway.console.rendering import (
    entry_json,
    how_completed,
    money,
    reason_text,
    step_text,
    structured_text,
    tokens_text,
)
from millstream.gateway.console.running import run
from millstream.gateway.console.terminal import print_data, print_text, progress_console
from millstream.gateway.exits import EXIT_CODES_HELP, ExitCode, exit_code_of_result
from millstream.schemas.base import DEFAULT_TENANT
from millstream.schemas.dead_letters import DeadLetter
from millstream.schemas.errors import MillstreamError
from millstream.schemas.events import DEFAULT_TEMPLATE, AgentRequest, AgentResult
from millstream.streams.bus.answer import Ended, StartedAnew, Stepped, Text
from millstream.streams.bus.api import EventBus
from millstream.streams.consumer.members import lane_members
from millstream.streams.settings import Settings

__all__ = ["submit"]

_EPILOG = EXIT_CODES_HELP
# No record says which of the three became of an attempt.
_BEGINS_ANEW = (
    "the answer begins anew (the attempt that wrote this failed, was stopped or was lost):"
)
_MODEL_CALLS = frozenset({"model_start", "model_end", "model_error"})


def submit(
    text: Annotated[str, typer.Argument(help="What to ask.")],
    *,
    user: Annotated[str, typer.Option(help="Who asks.")],
    session: Annotated[
        str | None, typer.Option(help="The conversation it belongs to; default: one of its own.")
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
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the result.")
    ] = 120.0,
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

    The answer is on standard output, how it ended and what it cost on standard error.
    """
    content = content_of(image or (), file or ())
    if not text.strip() and content is None:
        message = "there is nothing to ask: the text is empty"
        raise typer.BadParameter(message)
    if deadline_s is not None and not math.isfinite(deadline_s):
        message = f"{deadline_s} is no number of seconds"
        raise typer.BadParameter(message, param_hint="--deadline")
    deadline_ms = None if deadline_s is None else time.time_ns() // 10**6 + round(deadline_s * 1000)
    request = request_of(
        user_id=user,
        tenant=tenant,
        input=text,
        content=content,
        request_id=request_id or secrets.token_hex(8),
        session_id=session,
        template=template,
        model=model,
        deadline_ms=deadline_ms,
    )
    show = JsonShow() if as_json else TextShow()
    known = request_id is not None
    raise typer.Exit(
        run(_submit(request, show, timeout_s=timeout_s, maybe_known=known, steps=steps))
    )


def request_of(**fields: Any) -> AgentRequest:
    """Make a request that is asked now. Raises `typer.BadParameter` that says what is wrong."""
    try:
        return AgentRequest(**fields, at_ms=time.time_ns() // 10**6)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        message = f"{field}: {problem['msg']}"
        raise typer.BadParameter(message) from error


async def _submit(
    request: AgentRequest,
    show: JsonShow | TextShow,
    *,
    timeout_s: float,
    maybe_known: bool,
    steps: bool,
) -> ExitCode:
    settings = settings_for_client()
    async with open_bus(settings) as bus, _told_of_its_template(settings, request):
        earlier = await earlier_result(bus, request) if maybe_known else None
        if earlier is not None:
            progress_console().print(
                f"request {request.request_id} of {request.user_id} has ended before; its result:"
            )
            code = show.take(earlier)
            return ExitCode.FAILED if code is None else code
        return await follow(bus, request, show, timeout_s=timeout_s, steps=steps)


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
    *,
    timeout_s: float,
    steps: bool = False,
) -> ExitCode:
    """Publish a request and show what comes of it, for at most `timeout_s`; `steps` too."""
    published = False
    try:
        async with (
            asyncio.timeout(timeout_s) as limit,
            submitted(bus, request, steps=steps) as (address, coming),
        ):
            published = True
            async for told in coming:
                code = show.take(told)
                if code is not None:
                    return code
    except TimeoutError:
        if not limit.expired():
            raise
        show.broke_off()
        progress_console().print(
            f"no result of request {request.request_id} ({address}) within {timeout_s:g} s. It may "
            "still come: `millstream history --request "
            f"{request.request_id}`. Does a worker run? See `millstream doctor`."
        )
    except asyncio.CancelledError:
        show.broke_off()
        if published:
            progress_console().print(
                f"request {request.request_id} goes on, and costs what it costs; to end it: "
                f"`{_cancel_command(request)}`"
            )
        raise
    return ExitCode.TIMED_OUT


def _cancel_command(request: AgentRequest) -> str:
    words = ["millstream", "cancel", "--user", request.user_id]
    words += ["--tenant", request.tenant] * (request.tenant != DEFAULT_TENANT)
    return shlex.join([*words, "--request", str(request.request_id)])


class JsonShow:
    """Prints each event as a line of JSON."""

    def take(self, told: Told) -> ExitCode | None:
        """Print a record; gives the exit code if it is the last."""
        print_data(entry_json(told.delivery))
        return _ends_with(told)

    def broke_off(self) -> None:
        """Nothing is left half written."""


class TextShow:
    """Prints the answer's text as it comes, and at the end how it ended.

    Of the steps that are given to it, those of models are left out without `model_calls`.
    """

    def __init__(self, *, model_calls: bool = True) -> None:
        self._in_line = False
        self._model_calls = model_calls
        self._console = progress_console()

    def take(self, told: Told) -> ExitCode | None:
        """Show what a record adds; gives the exit code if it is the last."""
        for piece in told.pieces:
            match piece:
                case Text(text=text):
                    print_text(text)
                    self._in_line = not text.endswith("\n")
                case StartedAnew():
                    self.broke_off()
                    self._console.print(_BEGINS_ANEW)
                case Stepped(step=step) if not self._model_calls and step.kind in _MODEL_CALLS:
                    pass
                case Stepped(step=step):
                    # In a file or a pipe, to which no step goes, the answer stays as it is.
                    if sys.stdout.isatty():
                        self.broke_off()
                    self._console.print(step_text(step), markup=False, highlight=False)
                case Ended(result=result):
                    self.broke_off()
                    if (answer := structured_text(result)) is not None:
                        print_data(answer)
                    self._console.print(ending(result))
        if isinstance(told.delivery.event, DeadLetter):
            self._console.print(f"not accepted: {_why(told.delivery.event)}")
        return _ends_with(told)

    def broke_off(self) -> None:
        """End the line that the answer stands in."""
        if self._in_line:
            print_text("\n")
            self._in_line = False


def ending(result: AgentResult) -> str:
    """Say how a request ended and what it cost."""
    spent = f"{tokens_text(result.usage)}, {money(result.cost_micros)}"
    took = f"{max(0, result.at_ms - result.accepted_at_ms) / 1000:.2f} s"
    if result.status == "completed":
        return f"{how_completed(result)} in {took} by {result.model}: {spent}"
    return f"{result.status} after {took}, {_why(result)} ({spent})"


def _why(event: AgentResult | DeadLetter) -> str:
    # What to do stands at a reason's end.
    return reason_text(event.reason, whole=True)


def _ends_with(told: Told) -> ExitCode | None:
    match told:
        case Told(pieces=(*_, Ended(result=result))):
            return exit_code_of_result(result)
        case Told(delivery=delivery) if isinstance(delivery.event, DeadLetter):
            return ExitCode.REJECTED
        case _:
            return None
