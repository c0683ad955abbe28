"""Commands on sessions, and their answers: published here, decided by a lane, awaited here.

All callers of a process share one reader of answers, which stands before the first command is sent:
an answer cannot be missed, also not while Kafka is away, since reading goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from shlex import quote
from typing import Self

from millstream.schemas.errors import ServiceUnavailable
from millstream.schemas.sessions.commands import SessionCommand
from millstream.schemas.sessions.errors import (
    CommandIdReused,
    SessionOutcomeUnknown,
    refusal_of,
)
from millstream.schemas.sessions.states import SessionAnswered
from millstream.schemas.topics import SESSION_ANSWERS
from millstream.streams.bus.api import Delivery, EventBus

__all__ = ["SessionCommands"]

_Key = tuple[str, str, str]
"""Tenant, user and command."""


class SessionCommands:
    """Publishes commands on sessions over a bus, and gives each its answer."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._waiting: dict[_Key, list[asyncio.Future[SessionAnswered]]] = {}
        self._listening: asyncio.Task[None] | None = None
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Fix where answers are read from. Raises `Misconfigured` where their topic is missing."""
        async with AsyncExitStack() as stack:
            tail = self._bus.tail((SESSION_ANSWERS,))
            answers = await stack.enter_async_context(tail)
            self._listening = asyncio.create_task(self._listen(answers), name="session-answers")
            self._exits = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Read no more; whoever still waits is told that the outcome is unknown."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        await self._exits.aclose()

    @property
    def waiting(self) -> int:
        """How many callers wait for an answer."""
        return sum(map(len, self._waiting.values()))

    async def ask(self, command: SessionCommand, timeout_s: float) -> SessionAnswered:
        """Publish a command, and give what its lane decided.

        Raises the kind of `SessionRefused` that was decided, `SessionOutcomeUnknown` where no
        answer comes in time, `CommandIdReused` where the id was that of another command,
        `ServiceUnavailable` where reading has ended and nothing was sent, and `Misconfigured`.
        """
        if self._listening is None or self._listening.done():
            message = (
                "the manager of sessions is not open, or its bus was stopped: nothing was sent; "
                "use it as `async with SessionManager(…) as sessions`, inside of its bus"
            )
            raise ServiceUnavailable(message)
        key = (command.tenant, command.user_id, command.command_id)
        coming: asyncio.Future[SessionAnswered] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(coming)
        is_published = False
        try:
            async with asyncio.timeout(timeout_s) as limit:
                await self._bus.publish(command)
                is_published = True
                answer = await coming
        except TimeoutError as error:
            if not limit.expired():
                raise
            why = (
                f"nobody answered within {timeout_s:g} s: does a worker run?"
                if is_published
                else f"Kafka did not answer within {timeout_s:g} s"
            )
            raise _unknown(command, why, is_published=is_published) from error
        except ServiceUnavailable as error:
            raise _unknown(command, str(error), is_published=is_published) from error
        finally:
            self._forget(key, coming)
        _check(command, answer)
        return answer

    async def _listen(self, answers: AsyncIterator[Delivery]) -> None:
        try:
            async for delivery in answers:
                if isinstance(answer := delivery.event, SessionAnswered):
                    key = (answer.tenant, answer.user_id, answer.command_id)
                    for coming in self._waiting.get(key, ()):
                        if not coming.done():
                            coming.set_result(answer)
        finally:
            ended = ServiceUnavailable("the manager, or its bus, was stopped before an answer came")
            for coming in [one for many in self._waiting.values() for one in many]:
                if not coming.done():
                    coming.set_exception(ended)

    def _forget(self, key: _Key, coming: asyncio.Future[SessionAnswered]) -> None:
        waiting = self._waiting[key]
        waiting.remove(coming)
        if not waiting:
            del self._waiting[key]
        if coming.done() and not coming.cancelled():
            coming.exception()  # or asyncio would complain that nobody looked


def _check(command: SessionCommand, answer: SessionAnswered) -> None:
    """Raise where an answer refuses, or is that of another command of the same id."""
    asked, answered = ((one.operation, one.session_id) for one in (command, answer))
    if asked != answered:
        raise CommandIdReused(
            f"command {command.command_id!r} was to {answer.operation} session "
            f"{answer.session_id!r}; give this one an id of its own"
        )
    if answer.asked is not None and answer.asked != command.digest:
        raise CommandIdReused(
            f"command {command.command_id!r} was to {answer.operation} the same in another way; "
            "give this one an id of its own"
        )
    if answer.refused is not None:
        raise refusal_of(answer.refused.code, answer.refused.message)


def _unknown(command: SessionCommand, why: str, *, is_published: bool) -> SessionOutcomeUnknown:
    stands = (
        "it stands on the log, and is decided once a worker reads it"
        if is_published
        else "Kafka has not acknowledged it, so it may stand on the log or not"
    )
    what = "all sessions" if command.session_id is None else f"session {command.session_id!r}"
    return SessionOutcomeUnknown(
        f"whether the {command.operation} of {what} is carried out is not known: {why} ({stands}). "
        f"Send it again as command_id={command.command_id!r}, on a command line --command-id "
        f"{quote(command.command_id)}: that has no second effect",
        command_id=command.command_id,
        is_published=is_published,
    )
