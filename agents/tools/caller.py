"""Who asks: what a tool and a middleware are told of the request that they work for."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from millstream.schemas.ports import ClockMs

__all__ = ["NO_CLAIMS", "Caller", "idempotency_key"]

_NOT_UNDER_WAY: Final = "only a run that is under way has a clock, ids and random numbers"

NO_CLAIMS: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The request that an agent answers, as LangChain's `Runtime` and `ToolRuntime` carry it.

    A tool takes it by a parameter `runtime: ToolRuntime[Caller]`, as `runtime.context`, and a
    middleware has it as `runtime.context`, or `request.runtime.context`. The model is shown nothing
    of it, and cannot set it. Whoever goes on with a run runs its middlewares' hooks again: what
    they add to the conversation must not depend on another clock, chance or id than these.

    Attributes:
        tenant: The user's tenant.
        user_id: The user who asks, in the tenant.
        claims: What the user's credential says. Empty: no credential is verified yet.
        request_id: The request, of this user.
        session_id: The conversation, of this user.
        attempt: The attempt at the request; a higher one supersedes it.
        deadline_ms: When the attempt is over at the latest, in milliseconds since the epoch.
        metadata: What the upstream sent along with the request.
        session_metadata: What was said of the session as it was created or changed, as it is when
            the attempt begins.
        template: The name of the agent's template.
        model: The name of the model that answers.
        idempotency_key: Names this tool call, over all attempts: 32 hex digits. `None` outside
            a tool call.
        called_at_ms: When the tool was called, in milliseconds since the epoch: of a call with an
            effect the same in each attempt at it. `None` outside a tool call.
        answers_given: Gives how many answers of its model the agent was given so far, which is
            where in its run it is. `None` outside of a run.
        clock_ms: Gives the time that a middleware is told there. `None` outside of a run.
    """

    tenant: str
    user_id: str
    request_id: str
    session_id: str
    attempt: int
    deadline_ms: int
    template: str
    model: str
    claims: Mapping[str, Any] = field(default_factory=lambda: NO_CLAIMS)
    metadata: Mapping[str, str] = field(default_factory=lambda: NO_CLAIMS)
    session_metadata: Mapping[str, str] = field(default_factory=lambda: NO_CLAIMS)
    idempotency_key: str | None = None
    called_at_ms: int | None = None
    answers_given: Callable[[], int] | None = field(default=None, repr=False, compare=False)
    clock_ms: ClockMs | None = field(default=None, repr=False, compare=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        """Have LangChain, which checks what it gives to a tool, hand it on as it is."""
        as_it_is = core_schema.plain_serializer_function_ser_schema(lambda caller: caller)
        return core_schema.is_instance_schema(cls, serialization=as_it_is)

    @property
    def remaining_s(self) -> float:
        """The seconds until `deadline_ms` by this machine's clock, 0 once it passed."""
        return max(0.0, self.deadline_ms / 1000 - time.time())

    def now_ms(self) -> int:
        """Give the time, in milliseconds since the epoch: the same in each attempt.

        It stands still between two answers of the model, and in a tool call, where it is
        `called_at_ms`. What a middleware was told is recorded, so that another worker tells it
        again. Raises `RuntimeError` outside of a run.
        """
        if self.called_at_ms is not None:
            return self.called_at_ms
        if self.clock_ms is None:
            raise RuntimeError(_NOT_UNDER_WAY)
        return self.clock_ms()

    def new_id(self, name: str = "") -> str:
        """Give an id, of 32 hex digits, that is the same in each attempt at this tool call.

        Another one for each `name`; so a call that is made again makes nothing under another id.
        In a middleware, outside tool calls, it is of the place in the run: the same in each
        attempt, and another one behind each answer of the model. Raises `RuntimeError` outside of
        a run.
        """
        return blake2b(self._named(name, b"id"), digest_size=16).hexdigest()

    def random(self, name: str = "") -> random.Random:
        """Give a source of numbers that gives the same ones wherever `new_id` gives the same id.

        Another one for each `name`. Not for secrets. Raises `RuntimeError` outside of a run.
        """
        return random.Random(self._named(name, b"random"))  # noqa: S311  not for secrets

    def _named(self, name: str, kind: bytes) -> bytes:
        key = self.idempotency_key
        if key is None:
            if self.answers_given is None:
                raise RuntimeError(_NOT_UNDER_WAY)
            kind, key = b"in the run, " + kind, _key_of(self, str(self.answers_given()))
        return b"\0".join((kind, key.encode(), name.encode(errors="surrogatepass")))


def idempotency_key(caller: Caller, call_id: str) -> str:
    """Give the key of a tool call: of its run and its id in it, so any attempt gives the same.

    The id of a call is unique in its run: one that a provider gives a second time is given another
    (`agents/loop/answers.py`).
    """
    return _key_of(caller, call_id)


def _key_of(caller: Caller, what: str) -> str:
    named = (caller.tenant, caller.user_id, caller.request_id, what)
    # A length before each: no name can look like two.
    text = "".join(f"{len(one)}:{one}" for one in named)
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
